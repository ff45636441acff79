package node

import "bytes"

// serverLog takes what net/http logs. Most of it is about clients that do not speak HTTP
// properly, of interest only when looked for; that no connection can be accepted, usually
// for want of file descriptors, concerns everybody.
type serverLog struct{ node *Node }

// dropAccept is the reason under which a failed accept is counted.
const dropAccept = "accept_failed"

// Write implements io.Writer for log.Logger, which calls it once for each line.
func (l serverLog) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	if bytes.Contains(line, []byte("Accept error")) {
		l.node.metrics.Drop(dropAccept)
		l.node.log.Warn("cannot accept connections; is the limit of open files too low?", "error", text)
		return len(line), nil
	}
	l.node.log.Debug("http", "message", text)
	return len(line), nil
}
