"""psycopg 3: the branch in a URL; prepared statements, a pipeline, COPY."""
import os
from urllib.parse import quote

import psycopg

url = f"postgresql://postgres@{os.environ['HOST']}:{os.environ['PORT']}/{quote(os.environ['DATABASE'], safe='')}?application_name=psycopg"
with psycopg.connect(url, prepare_threshold=0) as connection:
    connection.execute("create table psycopg_item (id int primary key, name text)")
    connection.execute("alter table psycopg_item add column price numeric(10, 2)")
    connection.execute("create index psycopg_item_name on psycopg_item (name)")
    with connection.pipeline():
        for number in range(20):
            connection.execute("insert into psycopg_item values (%s, %s, %s)", (number, f"n{number}", number))
    with connection.cursor().copy("copy psycopg_item (id, name) from stdin") as copy:
        copy.write_row((100, "copied"))
    connection.commit()
    connection.execute("create table psycopg_gone (a int)")
    connection.rollback()
    assert connection.execute("select count(*), max(name) from psycopg_item").fetchone() == (21, "n9")
print("version", psycopg.__version__)
