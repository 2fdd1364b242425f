package engine_test

import (
	"bytes"
	"context"
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sakerdb/saker/engine"
)

func ExampleDB_CreateIndex() {
	ctx := context.Background()
	db, err := engine.Open("db", &engine.Options{FS: vfs.NewMem()})
	if err != nil {
		panic(err)
	}
	birds, err := db.CreateTable(ctx, "birds")
	if err != nil {
		panic(err)
	}
	byWord, err := db.CreateIndex(ctx, birds, "word", false, func(row engine.Row, emit func([]byte)) {
		for w := range bytes.FieldsSeq(row.Value) {
			emit(w)
		}
	})
	if err != nil {
		panic(err)
	}
	err = db.Update(ctx, func(tx *engine.Tx) error {
		for _, b := range [][2]string{{"saker", "Falco cherrug"}, {"peregrine", "Falco peregrinus"}, {"kite", "Milvus milvus"}} {
			if err := tx.Put(birds, []byte(b[0]), []byte(b[1])); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		panic(err)
	}
	err = db.View(ctx, func(tx *engine.Tx) error {
		for row, err := range tx.ScanIndex(byWord, engine.Range{From: []byte("Falco"), To: []byte("Falcp")}) {
			if err != nil {
				return err
			}
			fmt.Printf("%s: %s, %s\n", row.IndexKey, row.Key, row.Value)
		}
		return nil
	})
	if err != nil {
		panic(err)
	}
	if err := db.Close(); err != nil {
		panic(err)
	}
	// Output:
	// Falco: peregrine, Falco peregrinus
	// Falco: saker, Falco cherrug
}
