// Package faults has no code of its own: its tests start three real processes, speak to them
// as clients and backends do, kill, pause and restart them, and check what the clients saw.
//
// The tests know Parley by its binary, its ports and its log alone. They may import a
// WebSocket client and the standard library, and must never import a room of Parley.
//
//	go test ./test/faults                                    the short form
//	PARLEY_FAULTS=long go test -timeout 0 ./test/faults      faults in random order, for PARLEY_FAULTS_TIME
//
// PARLEY_FAULTS_SEED repeats the order of a long run, and PARLEY_BIN names a binary that is
// used instead of a new one.
package faults
