"""SQLAlchemy: the branch in the engine's URL; tables made and dropped from their metadata."""
import os

import sqlalchemy
from sqlalchemy import Column, Index, Integer, MetaData, Numeric, String, Table, text

url = sqlalchemy.URL.create("postgresql+psycopg", "postgres", host=os.environ["HOST"], port=int(os.environ["PORT"]),
                            database=os.environ["DATABASE"], query={"application_name": "sqlalchemy"})
engine = sqlalchemy.create_engine(url)
metadata = MetaData()
item = Table("sqlalchemy_item", metadata, Column("id", Integer, primary_key=True), Column("name", String(40)))
Index("sqlalchemy_item_name", item.c.name)
metadata.create_all(engine)
with engine.begin() as connection:
    connection.execute(text("alter table sqlalchemy_item add column price numeric(10, 2)"))
    item.append_column(Column("price", Numeric))
    connection.execute(item.insert(), [{"name": "a", "price": 1}, {"name": "b", "price": 2}])
with engine.connect() as connection:
    connection.execute(text("create table sqlalchemy_gone (a int)"))
    connection.rollback()
    assert connection.execute(item.select().where(item.c.price > 1)).one().name == "b"
# What reflection asks the catalogs.
assert {column["name"] for column in sqlalchemy.inspect(engine).get_columns("sqlalchemy_item")} == {"id", "name", "price"}
print("version", sqlalchemy.__version__)
