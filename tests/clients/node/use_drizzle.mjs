// Drizzle: its migrator over postgres.js, which runs a folder of SQL files in one transaction.
import { mkdtempSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { eq } from "drizzle-orm";
import { integer, numeric, pgTable, text } from "drizzle-orm/pg-core";
import { drizzle } from "drizzle-orm/postgres-js";
import { migrate } from "drizzle-orm/postgres-js/migrator";
import postgres from "postgres";
import { version } from "./version.mjs";

const { HOST, PORT, DATABASE, PGSSLMODE, PGSSLNEGOTIATION } = process.env;
const folder = mkdtempSync(join(tmpdir(), "drizzle-"));
mkdirSync(join(folder, "meta"));
const tags = ["0000_items", "0001_prices"];
writeFileSync(join(folder, "meta/_journal.json"), JSON.stringify({
    version: "7", dialect: "postgresql",
    entries: tags.map((tag, idx) => ({ idx, version: "7", when: 1767225600000 + idx, tag, breakpoints: true })),
}));
writeFileSync(join(folder, `${tags[0]}.sql`), "create table drizzle_item (id int primary key, name text)");
writeFileSync(join(folder, `${tags[1]}.sql`), "alter table drizzle_item add column price numeric(10, 2);\n" +
    "--> statement-breakpoint\ncreate index drizzle_item_name on drizzle_item (name);");
const client = postgres(`postgres://postgres@${HOST}:${PORT}/${encodeURIComponent(DATABASE)}`, {
    connection: { application_name: "drizzle" }, max: 1, onnotice: () => {}, ssl: PGSSLMODE === "require" && PGSSLMODE,
    sslnegotiation: PGSSLNEGOTIATION,
});
const database = drizzle(client);
await migrate(database, { migrationsFolder: folder });
const item = pgTable("drizzle_item", { id: integer().primaryKey(), name: text(), price: numeric() });
await database.insert(item).values([{ id: 1, name: "a", price: "1" }, { id: 2, name: "b", price: "2" }]);
await database.transaction(async (transaction) => {
    await transaction.execute("create table drizzle_gone (a int)");
    throw new Error("undo");
}).catch((error) => { if (error.message !== "undo") throw error; });
const [{ name }] = await database.select().from(item).where(eq(item.id, 2));
if (name !== "b") throw new Error(name);
await client.end();
rmSync(folder, { recursive: true });
console.log("version", version("drizzle-orm"));
