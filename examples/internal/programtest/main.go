// Package programtest lets a test binary be the program that it tests, so that
// tests can run it as another process, and kill it.
package programtest

import (
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// Main is TestMain of a program. With the flag -NAME.program the binary is the
// program, with the remaining arguments; else it runs the tests, after which no
// goroutine may be left.
func Main(m *testing.M, name string, program func()) {
	is := flag.Bool(name+".program", false, "be the program, with the remaining arguments")
	flag.Parse()
	if *is {
		os.Args = append(os.Args[:1], flag.Args()...)
		program()
	}
	goleak.VerifyTestMain(m)
}
