// Knex: two migrations, each in its own transaction, as its migration runner makes them.
import knex from "knex";
import { version } from "./version.mjs";

const { HOST, PORT, DATABASE } = process.env;
const migrations = {
    "20260101_items.js": {
        up: (knex) => knex.schema.createTable("knex_item", (table) => { table.increments(); table.text("name"); }),
        down: (knex) => knex.schema.dropTable("knex_item"),
    },
    "20260102_prices.js": {
        up: (knex) => knex.schema.alterTable("knex_item", (table) => {
            table.decimal("price", 10, 2);
            table.index("name", "knex_item_name");
        }),
        down: (knex) => knex.schema.alterTable("knex_item", (table) => table.dropColumn("price")),
    },
};
const database = knex({
    client: "pg",
    connection: { host: HOST, port: Number(PORT), user: "postgres", database: DATABASE, application_name: "knex" },
});
await database.migrate.latest({
    migrationSource: {
        getMigrations: async () => Object.keys(migrations),
        getMigrationName: (name) => name,
        getMigration: async (name) => migrations[name],
    },
});
await database("knex_item").insert([{ name: "a", price: 1 }, { name: "b", price: 2 }]);
await database.transaction(async (transaction) => {
    await transaction.schema.createTable("knex_gone", (table) => table.increments());
    throw new Error("undo");
}).catch((error) => { if (error.message !== "undo") throw error; });
const [{ name }] = await database("knex_item").where("price", ">", 1);
if (name !== "b") throw new Error(name);
await database.destroy();
console.log("version", version("knex"));
