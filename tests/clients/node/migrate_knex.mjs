// Knex: `migrate_knex.mjs DATABASE N`: `migrate.latest` with the first N of two migrations.
import knex from "knex";

const { HOST, PORT } = process.env;
const [name, upto] = process.argv.slice(2);
const migrations = {
    "1_items.js": {
        up: (knex) => knex.schema.createTable("knex_tool", (table) => { table.increments(); }),
        down: (knex) => knex.schema.dropTable("knex_tool"),
    },
    "2_prices.js": {
        up: (knex) => knex.schema.alterTable("knex_tool", (table) => { table.decimal("price", 10, 2); }),
        down: (knex) => knex.schema.alterTable("knex_tool", (table) => table.dropColumn("price")),
    },
};
const database = knex({
    client: "pg",
    connection: { host: HOST, port: Number(PORT), user: "postgres", database: name, application_name: "knex" },
});
try {
    await database.migrate.latest({
        migrationSource: {
            getMigrations: async () => Object.keys(migrations).slice(0, Number(upto)),
            getMigrationName: (name) => name,
            getMigration: async (name) => migrations[name],
        },
    });
} finally {
    await database.destroy();
}
