// node-postgres: the branch in a URL, where %2F stays as it is written.
import pg from "pg";
import { version } from "./version.mjs";

const { HOST, PORT, DATABASE } = process.env;
const client = new pg.Client({
    connectionString: `postgres://postgres@${HOST}:${PORT}/${encodeURIComponent(DATABASE)}?application_name=node-postgres`,
});
await client.connect();
await client.query("begin");
await client.query("create table node_pg_item (id int primary key, name text)");
await client.query("alter table node_pg_item add column price numeric(10, 2)");
await client.query("create index node_pg_item_name on node_pg_item (name)");
await client.query("commit");
await client.query({ name: "add", text: "insert into node_pg_item values ($1, $2, $3)", values: [1, "a", 2] });
await client.query({ name: "add", text: "insert into node_pg_item values ($1, $2, $3)", values: [2, "b", 3] });
await client.query("begin; create table node_pg_gone (a int); rollback");
const { rows } = await client.query("select name from node_pg_item where id = $1", [2]);
if (rows[0].name !== "b") throw new Error(JSON.stringify(rows));
await client.end();
console.log("version", version("pg"));
