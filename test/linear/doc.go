// Package linear has no code of its own: its test has clients use locks, counters, registers, a
// queue, signals and ids of three real processes through their HTTP API, while one of them is
// killed and others are stopped for a while, writes down when each client asked for what and was
// answered what, and has porcupine look for an order in which a single server could have given
// those answers.
//
// The test knows Parley by its binary, its HTTP API and the package client. It may import
// test/process, porcupine and the standard library, and must never import an internal room.
//
//	go test ./test/linear                      each fault once
//	PARLEY_LINEAR=10m go test -timeout 0 -v ./test/linear     faults in random order
//
// Environment: PARLEY_LINEAR for the length of the random form, PARLEY_LINEAR_SEED to repeat an
// order, PARLEY_LINEAR_RACE=1 for nodes with the race detector, PARLEY_LINEAR_OUT for a directory
// that takes a picture of a history that is wrong, PARLEY_BIN for a binary that is used instead of
// a new one.
package linear
