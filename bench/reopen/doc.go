// Command reopen measures how long a store takes to open after a kill, at the
// default limits, and what memory that takes.
//
//	go run ./bench/reopen              # right after a durable commit of 32 M rows of 100 B
//	go run ./bench/reopen -what log    # with 126 MiB of log to replay, a checkpoint being due
//
//	parent ─► child: write, "ready" ─► SIGKILL ─► child: open, tell the figures
//
// Recovery must take less than five seconds and keep to the budget of memory. Rows
// are sampled afterwards, outside of the clock.
//
// Not promised: a cold cache. The kill is one of the process; what it wrote is
// still in the system's cache.
package main
