# ActiveRecord, as Rails has it: the branch in the URL; two migrations, each in its transaction and under its advisory lock.
require "active_record"
require "cgi"

url = "postgres://postgres@#{ENV["HOST"]}:#{ENV["PORT"]}/#{CGI.escape(ENV["DATABASE"])}?application_name=activerecord"
ActiveRecord::Base.establish_connection(url)
ActiveRecord::Migration.verbose = false

class Items < ActiveRecord::Migration[6.1]
  def change
    create_table(:activerecord_item) { |table| table.text :name }
  end
end

class Prices < ActiveRecord::Migration[6.1]
  def change
    add_column :activerecord_item, :price, :decimal, precision: 10, scale: 2
    add_index :activerecord_item, :name, name: "activerecord_item_name"
  end
end

def migrate(direction, *migrations)
  schema = ActiveRecord::Base.connection.schema_migration
  ActiveRecord::Migrator.new(direction, migrations, schema).migrate
end

items, prices = Items.new("Items", 20260101000000), Prices.new("Prices", 20260102000000)
migrate(:up, items, prices)

class Item < ActiveRecord::Base
  self.table_name = "activerecord_item"
end

Item.insert_all((1..20).map { |n| { name: "n#{n}", price: n } })
Item.transaction do
  Item.connection.execute("create table activerecord_gone (a int)")
  raise ActiveRecord::Rollback
end
raise Item.count.to_s unless Item.find_by(name: "n7").price == 7
# What psql's \d asks, and more: the schema as Ruby.
require "stringio"
dump = StringIO.new
ActiveRecord::SchemaDumper.dump(ActiveRecord::Base.connection, dump)
raise dump.string unless dump.string.include?('create_table "activerecord_item"')
puts "version #{ActiveRecord.version}"
