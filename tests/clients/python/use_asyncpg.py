"""asyncpg: the branch as a start-up parameter; everything goes through its prepared statements."""
import asyncio
import os

import asyncpg


async def main():
    connection = await asyncpg.connect(host=os.environ["HOST"], port=int(os.environ["PORT"]), user="postgres", database=os.environ["REPOSITORY"],
                                       server_settings={"application_name": "asyncpg", "pggit.branch": "feature/x"})
    async with connection.transaction():
        await connection.execute("create table asyncpg_item (id int primary key, name text)")
        # Prepared, described first, then run.
        statement = await connection.prepare("alter table asyncpg_item add column price numeric(10, 2)")
        assert statement.get_attributes() == ()
        await statement.fetch()
        await connection.execute("create index asyncpg_item_name on asyncpg_item (name); analyze asyncpg_item")
    await connection.executemany("insert into asyncpg_item (id, name) values ($1, $2)", [(n, f"n{n}") for n in range(50)])
    try:
        async with connection.transaction():
            await connection.execute("create table asyncpg_gone (a int)")
            await connection.fetch("select 1/0")
    except asyncpg.DivisionByZeroError:
        pass
    assert await connection.fetchval("select count(*) from asyncpg_item where id < $1", 10) == 10
    await connection.close()


asyncio.run(main())
print("version", asyncpg.__version__)
