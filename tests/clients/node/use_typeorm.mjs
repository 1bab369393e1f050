// TypeORM: two migration classes over node-postgres, and what it reads of the schema when it starts.
import "reflect-metadata";
import { DataSource, EntitySchema } from "typeorm";
import { version } from "./version.mjs";

const { HOST, PORT, DATABASE } = process.env;

class Items1767225600000 {
    name = "Items1767225600000";
    async up(runner) { await runner.query("create table typeorm_item (id int primary key, name text)"); }
    async down(runner) { await runner.query("drop table typeorm_item"); }
}

class Prices1767225600001 {
    name = "Prices1767225600001";
    async up(runner) {
        await runner.query("alter table typeorm_item add column price numeric(10, 2)");
        await runner.query("create index typeorm_item_name on typeorm_item (name)");
    }
    async down(runner) { await runner.query("alter table typeorm_item drop column price"); }
}

const Item = new EntitySchema({
    name: "Item", tableName: "typeorm_item",
    columns: { id: { type: Number, primary: true }, name: { type: String }, price: { type: "numeric" } },
});
const source = new DataSource({
    type: "postgres", host: HOST, port: Number(PORT), username: "postgres", database: DATABASE, applicationName: "typeorm",
    entities: [Item], migrations: [Items1767225600000, Prices1767225600001],
});
await source.initialize();
await source.runMigrations({ transaction: "each" });
const items = source.getRepository(Item);
await items.save([{ id: 1, name: "a", price: 1 }, { id: 2, name: "b", price: 2 }]);
await source.transaction(async (manager) => {
    await manager.query("create table typeorm_gone (a int)");
    throw new Error("undo");
}).catch((error) => { if (error.message !== "undo") throw error; });
const found = await items.findOneBy({ id: 2 });
if (found.name !== "b") throw new Error(found.name);
await source.destroy();
console.log("version", version("typeorm"));
