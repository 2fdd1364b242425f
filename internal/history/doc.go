// Package history says which anomalies a recorded history of transactions
// contains. Transactions append elements to lists and read lists, so that each
// list read names the versions before it, in their order: from the reads alone
// follows who depends on whom. The method is that of Elle, "Inferring Isolation
// Anomalies from Experimental Observations" (Kingsbury and Alvaro, VLDB 2020).
//
//	append(k, 2)  read(k) → [1 2]       order of k: 1, 2, 3: the longest list read
//	     T2 ───wr──► T5
//	      │          │ rw, for T5 did not see 3
//	      └───ww──► T3        edges: ww overwrote, wr read from, rw was overwritten
//	                 │        after its read, rt ended before the other began
//	                 ▼
//	one Tarjan per question, in the order of the levels:
//
//	ww                      G0
//	ww wr                   G1c
//	ww wr rt                G1c-realtime
//	ww wr, rw not twice     G-single, or G-nonadjacent if it takes several rw
//	  in a row
//	the same with rt        G-single-realtime, G-nonadjacent-realtime
//	all but rt              G2-item, or G2 if a scan missed a key
//	all                     G2-item-realtime, G2-realtime
//
// "Not twice in a row" is a walk over pairs (transaction, came by rw): a cycle
// among them is what snapshot isolation excludes, neither more nor less (Cerone
// and Gotsman, JACM 2018). What needs no graph is found on the way: reads of
// aborted, rolled back or intermediate versions, of elements nobody appended,
// lists that contradict each other or the transaction's own appends, lost updates.
//
// Invariants
//
//   - What is reported happened: an edge is drawn only if every order of versions
//     that explains the reads has it, or a path in its place with as many rw.
//   - What happened is reported, if the lists were read to their ends: of appends
//     that nobody read only the place behind all others is known.
//   - Each strongly connected component is reported once, by its lowest class:
//     a level that permits one class permits all later ones.
//   - Time and memory grow with the number of operations and list elements, but
//     for the search of witnesses, which is bounded.
//
// Concurrency: Check shares nothing; a History must not change while it runs.
//
// Not promised: the shortest cycle; counts of single cycles (a component may hold
// any number of them); deletions and overwriting, which lists do not have.
package history
