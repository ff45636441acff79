package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// The server's own snapshot of one stream, with its consumers, over the JetStream API: it
// sends chunks, each to be acknowledged, up to an empty one with a status. A restore is the
// same the other way round, each chunk a request.
const (
	snapshotChunkSize = 256 << 10
	snapshotWindow    = 4 << 20
	// chunkTimeout bounds the wait for the next chunk or for its acknowledgement.
	chunkTimeout = 15 * time.Second
	// restoreTimeout bounds what follows the last chunk: the server builds the stream.
	restoreTimeout = 5 * time.Minute
	// interestTimeout is how long the subject for chunks of a restore may take to be known
	// to the server that we are connected to; another one may have opened it.
	interestTimeout = 2 * time.Second
)

type snapshotRequest struct {
	DeliverSubject string `json:"deliver_subject"`
	ChunkSize      int    `json:"chunk_size"`
	WindowSize     int    `json:"window_size"`
}

// snapshotResponse carries config and state as the server wrote them: a version that knows
// more than this one loses nothing.
type snapshotResponse struct {
	apiResponse
	Config json.RawMessage `json:"config"`
	State  json.RawMessage `json:"state"`
}

type restoreRequest struct {
	Config json.RawMessage `json:"config"`
	State  json.RawMessage `json:"state"`
}

type restoreResponse struct {
	apiResponse
	DeliverSubject string `json:"deliver_subject"`
}

// snapshotStream writes the snapshot of a stream to w.
func snapshotStream(
	ctx context.Context, conn *nats.Conn, stream string, w io.Writer,
) (snapshotResponse, error) {
	var response snapshotResponse
	inbox := conn.NewRespInbox()
	chunks, err := conn.SubscribeSync(inbox)
	if err != nil {
		return response, err
	}
	defer func() { _ = chunks.Unsubscribe() }()
	begin := snapshotRequest{DeliverSubject: inbox, ChunkSize: snapshotChunkSize, WindowSize: snapshotWindow}
	if err := change(ctx, conn, "$JS.API.STREAM.SNAPSHOT."+stream, begin, &response); err != nil {
		return response, err
	}
	for index := 1; ; index++ {
		chunk, err := nextChunk(ctx, chunks)
		if err != nil {
			return response, fmt.Errorf("chunk %d: %w", index, err)
		}
		if len(chunk.Data) == 0 {
			return response, endOfSnapshot(chunk)
		}
		// The last piece may come without a reply subject and is not counted by the server.
		if chunk.Reply != "" && !strings.HasSuffix(chunk.Reply, "."+strconv.Itoa(index)) {
			return response, fmt.Errorf("chunk %d was lost", index)
		}
		if _, err := w.Write(chunk.Data); err != nil {
			return response, err
		}
		if chunk.Reply != "" {
			if err := chunk.Respond(nil); err != nil {
				return response, fmt.Errorf("acknowledge chunk %d: %w", index, err)
			}
		}
	}
}

func nextChunk(ctx context.Context, chunks *nats.Subscription) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, chunkTimeout)
	defer cancel()
	return chunks.NextMsgWithContext(ctx)
}

// endOfSnapshot tells the end from a failure. A stream that fits into less than one chunk
// ends without a status.
func endOfSnapshot(last *nats.Msg) error {
	switch status := last.Header.Get("Status"); status {
	case "", "204":
		return nil
	default:
		return fmt.Errorf("snapshot ended with status %s: %s", status, last.Header.Get("Description"))
	}
}

// restoreStream makes a stream from the snapshot that r has.
func restoreStream(
	ctx context.Context, conn *nats.Conn, stream string, begin restoreRequest, r io.Reader,
) error {
	var response restoreResponse
	if err := change(ctx, conn, "$JS.API.STREAM.RESTORE."+stream, begin, &response); err != nil {
		return err
	}
	chunk := make([]byte, snapshotChunkSize)
	for {
		n, err := io.ReadFull(r, chunk)
		if n > 0 {
			if err := sendChunk(ctx, conn, response.DeliverSubject, chunk[:n], chunkTimeout); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	return sendChunk(ctx, conn, response.DeliverSubject, nil, restoreTimeout)
}

// sendChunk sends one chunk of a restore, or its end, and waits until it was taken.
func sendChunk(
	ctx context.Context, conn *nats.Conn, subject string, chunk []byte, timeout time.Duration,
) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var msg *nats.Msg
	for begin := time.Now(); ; {
		var err error
		msg, err = conn.RequestWithContext(ctx, subject, chunk)
		if err == nil {
			break
		}
		if !errors.Is(err, nats.ErrNoResponders) || time.Since(begin) > interestTimeout {
			return fmt.Errorf("send chunk: %w", err)
		}
		time.Sleep(pollInterval)
	}
	if len(msg.Data) == 0 {
		return nil
	}
	var response apiResponse
	if err := json.Unmarshal(msg.Data, &response); err != nil {
		return fmt.Errorf("send chunk: understand the answer: %w", err)
	}
	return response.failure()
}
