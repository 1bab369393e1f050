//! tokio-postgres: a key/value string; statements that are prepared and described first, pipelined queries, a text of
//! two statements, a transaction that is rolled back. TLS by rustls, which verifies the certificate.

use pggit_proxy_clients::variable;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::{Client, NoTls, connect};
use tokio_postgres_rustls::MakeRustlsConnect;

/// What believes the authority in that file, and speaks PostgreSQL where the server asks at once.
fn tls(authority: &str) -> MakeRustlsConnect {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    MakeRustlsConnect::new(config)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), tokio_postgres::Error> {
    let [host, port, database, password] = ["HOST", "PORT", "DATABASE", "PGPASSWORD"].map(variable);
    let [sslmode, negotiation] = ["PGSSLMODE", "PGSSLNEGOTIATION"].map(variable);
    let text = format!(
        "host={host} port={port} user=postgres password={password} dbname={database} application_name=tokio-postgres \
         sslmode={sslmode} sslnegotiation={negotiation}"
    );
    let (client, connection) = if sslmode == "disable" {
        let (client, connection) = connect(&text, NoTls).await?;
        (client, tokio::spawn(connection))
    } else {
        let (client, connection) = connect(&text, tls(&variable("CERTIFICATE"))).await?;
        (client, tokio::spawn(connection))
    };
    work(client).await?;
    connection.await.unwrap()
}

async fn work(mut client: Client) -> Result<(), tokio_postgres::Error> {
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
    Ok(())
}
