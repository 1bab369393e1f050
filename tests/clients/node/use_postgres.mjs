// postgres.js: the branch in a URL; it prepares everything, and pipelines.
import postgres from "postgres";
import { version } from "./version.mjs";

const { HOST, PORT, DATABASE, PGSSLMODE, PGSSLNEGOTIATION } = process.env;
// One connection: which of several a statement takes would differ from run to run.
const sql = postgres(`postgres://postgres@${HOST}:${PORT}/${encodeURIComponent(DATABASE)}`, {
    connection: { application_name: "postgres.js" }, max: 1, onnotice: () => {}, ssl: PGSSLMODE === "require" && PGSSLMODE,
    sslnegotiation: PGSSLNEGOTIATION,
});
await sql.begin(async (sql) => {
    await sql`create table postgres_js_item (id int primary key, name text)`;
    await sql`alter table postgres_js_item add column price numeric(10, 2)`;
    await sql`create index postgres_js_item_name on postgres_js_item (name)`;
});
await Promise.all([...Array(20).keys()].map((id) => sql`insert into postgres_js_item ${sql({ id, name: `n${id}`, price: 1 })}`));
await sql.begin(async (sql) => {
    await sql`create table postgres_js_gone (a int)`;
    throw new Error("undo");
}).catch((error) => { if (error.message !== "undo") throw error; });
const [{ count }] = await sql`select count(*)::int from postgres_js_item where id >= ${10}`;
if (count !== 10) throw new Error(`${count}`);
await sql.end();
console.log("version", version("postgres"));
