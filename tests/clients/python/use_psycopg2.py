"""psycopg2: the branch in the database name of a key/value string."""
import os

import psycopg2

connection = psycopg2.connect(host=os.environ["HOST"], port=os.environ["PORT"], user="postgres", dbname=os.environ["DATABASE"],
                              application_name="psycopg2")
with connection, connection.cursor() as cursor:
    cursor.execute("create table psycopg2_item (id serial primary key, name text)")
    cursor.execute("alter table psycopg2_item add column price numeric(10, 2)")
    cursor.execute("create index psycopg2_item_name on psycopg2_item (name)")
    cursor.execute("insert into psycopg2_item (name, price) values (%s, %s)", ("café", 3.5))
with connection.cursor() as cursor:
    cursor.execute("create table psycopg2_gone (a int)")
connection.rollback()
with connection, connection.cursor() as cursor:
    cursor.execute("select name, price from psycopg2_item")
    assert [(name, float(price)) for name, price in cursor] == [("café", 3.5)]
print("version", psycopg2.__version__.split()[0])
