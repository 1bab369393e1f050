//! tokio-postgres: a key/value string; statements that are prepared and described first, pipelined queries, a text of
//! two statements, a transaction that is rolled back.

use pggit_proxy_clients::variable;
use tokio_postgres::{NoTls, connect};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), tokio_postgres::Error> {
    let (host, port) = (variable("HOST"), variable("PORT"));
    let text = format!("host={host} port={port} user=postgres dbname=app/feature/x application_name=tokio-postgres");
    let (mut client, connection) = connect(&text, NoTls).await?;
    let connection = tokio::spawn(connection);
    client.execute("create table tokio_postgres_item (id int primary key, name text)", &[]).await?;
    client
        .batch_execute(
            "alter table tokio_postgres_item add column price numeric(10, 2);
             create index tokio_postgres_item_name on tokio_postgres_item (name)",
        )
        .await?;
    let insert = client.prepare("insert into tokio_postgres_item (id, name) values ($1, $2)").await?;
    let (one, two) = (1, 2);
    let (first, second) = ([&one as _, &"a" as _], [&two as _, &"b" as _]);
    let (a, b) = tokio::join!(client.execute(&insert, &first), client.execute(&insert, &second));
    assert_eq!((a?, b?), (1, 1));
    let transaction = client.transaction().await?;
    transaction.execute("create table tokio_postgres_gone (a int)", &[]).await?;
    transaction.rollback().await?;
    let row = client.query_one("select name from tokio_postgres_item where id = $1", &[&two]).await?;
    assert_eq!(row.get::<_, String>(0), "b");
    drop(client);
    connection.await.unwrap()
}
