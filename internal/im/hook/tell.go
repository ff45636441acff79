package hook

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/im"
	"github.com/parleyio/parley/internal/im/api"
	"github.com/parleyio/parley/internal/im/message"
)

// slotPause is between two looks of a node whether it owns a slot, and after an error.
const slotPause = 500 * time.Millisecond

// teller tells of the messages of one slot while this node owns it. It reads the log behind a mark that
// all nodes share, and moves the mark when what it read is in the queue: so nothing is left out when
// the owner dies, and what is told twice has the same delivery number.
type teller struct {
	*Hooks
	server *im.Server
	slot   int
	mark   uint64 // 0 when it is not known
}

func (t *teller) run(ctx context.Context) {
	for ctx.Err() == nil {
		if !t.server.Owns(t.slot) {
			t.mark = 0 // another moves it now
			fabric.Pause(ctx, slotPause)
			continue
		}
		told, err := t.tell(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			t.options.Logger.Warn("messages are not told yet", "slot", t.slot, "error", err)
			t.mark = 0
			fabric.Pause(ctx, slotPause)
		case told < t.options.Batch:
			fabric.Pause(ctx, t.options.Interval)
		}
	}
}

// tell hands the next messages to the queue and returns how many entries it read.
func (t *teller) tell(ctx context.Context) (int, error) {
	name := im.ToldMark(t.slot)
	if t.mark == 0 {
		mark, known, err := t.server.Registry().Mark(name)
		if err != nil {
			return 0, err
		}
		if !known { // webhooks are new here: what is old is not told
			mark = t.server.Journal().Position(t.slot)
			if err := t.server.Registry().SetMark(ctx, name, mark); err != nil {
				return 0, err
			}
		}
		t.mark = mark
	}
	if t.server.Journal().Position(t.slot) <= t.mark {
		return 0, nil
	}
	list, last, err := t.server.Journal().Entries(ctx, t.slot, t.mark+1, t.options.Batch)
	if err != nil || last == 0 {
		return 0, err
	}
	if t.wants(EventStored) {
		if err := t.notify(ctx, toApp, list); err != nil {
			return 0, err
		}
	}
	if t.agents != nil {
		if err := t.notify(ctx, toAgents, ofAgents(list)); err != nil {
			return 0, err
		}
	}
	for _, m := range list {
		if err := t.offline(ctx, m); err != nil {
			return 0, err
		}
	}
	if err := t.server.Registry().SetMark(ctx, name, last); err != nil {
		return 0, err
	}
	entries := int(last - t.mark)
	t.mark = last
	return entries, nil
}

// ofAgents returns the messages of agents' channels.
func ofAgents(list []*message.Message) []*message.Message {
	return slices.DeleteFunc(slices.Clone(list), func(m *message.Message) bool { return m.Channel.Type != message.Agent })
}

// view is a message as webhooks tell it: a person's channel is the one that the sender wrote to.
func view(m *message.Message) api.Message { return api.View(m, m.From) }

func (t *teller) notify(ctx context.Context, to receiver, list []*message.Message) error {
	if len(list) == 0 {
		return nil
	}
	var rows []api.Message
	size := 0
	for _, m := range list {
		if size += len(m.Payload)*4/3 + rowSize; len(rows) > 0 && (size > maxBody || len(rows) == t.options.Batch) {
			if err := t.notifyRows(ctx, to, rows); err != nil {
				return err
			}
			rows, size = nil, len(m.Payload)*4/3+rowSize
		}
		rows = append(rows, view(m))
	}
	return t.notifyRows(ctx, to, rows)
}

const (
	// maxBody is about how large a request gets: the queue carries fabric.MaxValueSize.
	maxBody = 300 << 10
	// rowSize is more than a message takes beside its payload.
	rowSize = 2 << 10
)

// notifyRows stores one request. Its number says which messages are in it: another number of them is
// another request.
func (t *teller) notifyRows(ctx context.Context, to receiver, rows []api.Message) error {
	first, last := rows[0].MessageID, rows[len(rows)-1].MessageID
	id := "notify-" + string(to) + strconv.FormatInt(first, 36) + "-" + strconv.FormatInt(last, 36)
	err := t.enqueue(ctx, id, to, EventStored, rows)
	if errors.Is(err, fabric.ErrTooLarge) && len(rows) == 1 { // told without its payload
		t.options.Dropped(DropPayload)
		rows[0].Payload = nil
		err = t.enqueue(ctx, id, to, EventStored, rows)
	}
	return err
}

// offlineMessage is a message with those of its recipients who are not online.
type offlineMessage struct {
	api.Message
	ToUIDs         []string `json:"to_uids,omitempty"`
	Compress       string   `json:"compress,omitempty"`
	CompressToUIDs string   `json:"compress_to_uids,omitempty"`
	SourceID       uint16   `json:"source_id,omitempty"` // the node that tells
}

func (t *teller) offline(ctx context.Context, m *message.Message) error {
	if !t.wants(EventOffline) {
		return nil
	}
	away := t.server.Away(m)
	if len(away) == 0 {
		return nil
	}
	row := offlineMessage{Message: view(m), ToUIDs: away, SourceID: t.options.NodeID}
	if above := t.options.CompressAbove; above > 0 && len(away) > above {
		packed, err := pack(away)
		if err != nil {
			return err
		}
		row.ToUIDs, row.Compress, row.CompressToUIDs = nil, "gzip", packed
	}
	err := t.enqueue(ctx, "offline-"+strconv.FormatInt(m.ID, 36), toApp, EventOffline, row)
	if errors.Is(err, fabric.ErrTooLarge) { // a very large group: in parts
		return t.offlineParts(ctx, m, row, away)
	}
	return err
}

// offlinePart is how many users a part of an offline message names.
const offlinePart = 5000

func (t *teller) offlineParts(ctx context.Context, m *message.Message, row offlineMessage, away []string) error {
	row.Compress, row.CompressToUIDs = "", ""
	if len(row.Payload)*4/3 > maxBody/2 {
		t.options.Dropped(DropPayload)
		row.Payload = nil
	}
	part := 0
	for uids := range slices.Chunk(away, offlinePart) {
		row.ToUIDs = uids
		id := fmt.Sprintf("offline-%s-%d", strconv.FormatInt(m.ID, 36), part)
		if err := t.enqueue(ctx, id, toApp, EventOffline, row); err != nil {
			return err
		}
		part++
	}
	return nil
}

// pack compresses a list as the original does: base64 of the gzip of its JSON.
func pack(uids []string) (string, error) {
	data, err := json.Marshal(uids)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(data); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(out.Bytes()), nil
}
