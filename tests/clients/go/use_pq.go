// lib/pq: the branch in the database name of a key/value string.
package main

import (
	"database/sql"
	"fmt"
	"os"

	_ "github.com/lib/pq"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	dsn := fmt.Sprintf("host=%s port=%s user=postgres dbname=%s application_name=pq",
		os.Getenv("HOST"), os.Getenv("PORT"), os.Getenv("DATABASE"))
	database, err := sql.Open("postgres", dsn)
	must(err)
	defer database.Close()
	transaction, err := database.Begin()
	must(err)
	_, err = transaction.Exec("create table pq_item (id int primary key, name text)")
	must(err)
	_, err = transaction.Exec("alter table pq_item add column price numeric(10, 2); create index pq_item_name on pq_item (name)")
	must(err)
	must(transaction.Commit())
	_, err = database.Exec("insert into pq_item values ($1, $2, $3)", 7, "n7", 1)
	must(err)
	transaction, err = database.Begin()
	must(err)
	_, err = transaction.Exec("create table pq_gone (a int)")
	must(err)
	must(transaction.Rollback())
	var name string
	must(database.QueryRow("select name from pq_item where id = $1", 7).Scan(&name))
	if name != "n7" {
		panic(name)
	}
}
