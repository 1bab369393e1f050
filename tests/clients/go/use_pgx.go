// pgx: the branch in the URL's query, as `options`; a transaction, a batch, prepared statements of its own.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/jackc/pgx/v4"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	ctx := context.Background()
	url := fmt.Sprintf("postgres://postgres@%s:%s/%s?application_name=pgx&options=-c%%20pggit.branch%%3Dfeature/x",
		os.Getenv("HOST"), os.Getenv("PORT"), os.Getenv("REPOSITORY"))
	connection, err := pgx.Connect(ctx, url)
	must(err)
	defer connection.Close(ctx)
	transaction, err := connection.Begin(ctx)
	must(err)
	for _, sql := range []string{
		"create table pgx_item (id int primary key, name text)",
		"alter table pgx_item add column price numeric(10, 2)",
		"create index pgx_item_name on pgx_item (name)",
	} {
		_, err = transaction.Exec(ctx, sql)
		must(err)
	}
	must(transaction.Commit(ctx))
	batch := &pgx.Batch{}
	for id := 0; id < 20; id++ {
		batch.Queue("insert into pgx_item (id, name) values ($1, $2)", id, fmt.Sprint("n", id))
	}
	must(connection.SendBatch(ctx, batch).Close())
	transaction, err = connection.Begin(ctx)
	must(err)
	_, err = transaction.Exec(ctx, "create table pgx_gone (a int)")
	must(err)
	must(transaction.Rollback(ctx))
	var name string
	must(connection.QueryRow(ctx, "select name from pgx_item where id = $1", 7).Scan(&name))
	if name != "n7" {
		panic(name)
	}
}
