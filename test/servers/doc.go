// Package servers starts the real servers that drivers are tested against, each on free ports and
// in a directory of its own, and leaves none of them behind.
//
// It may import test/process and the standard library, and nothing else.
package servers
