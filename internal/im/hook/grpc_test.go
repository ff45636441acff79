package hook

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/memory"
	"github.com/parleyio/parley/test/process"
)

// application serves WebhookService as generated code would: by protobuf's own messages.
type application struct {
	server    *grpc.Server
	req, resp protoreflect.MessageDescriptor
	answer    func(call int) (status int, err error)

	mu    sync.Mutex // guards the following field
	calls []call
}

type call struct {
	event, data, delivery, signature string
}

func field(name string, number int32, kind descriptorpb.FieldDescriptorProto_Type) *descriptorpb.FieldDescriptorProto {
	return &descriptorpb.FieldDescriptorProto{
		Name: &name, Number: &number, Type: &kind, Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
	}
}

// serveApplication answers on a port; an empty address takes a free one.
func serveApplication(t *testing.T, address string, answer func(call int) (int, error)) (*application, string) {
	t.Helper()
	const (
		text   = descriptorpb.FieldDescriptorProto_TYPE_STRING
		binary = descriptorpb.FieldDescriptorProto_TYPE_BYTES
		number = descriptorpb.FieldDescriptorProto_TYPE_INT32 // as an enum is written
	)
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("webhook.proto"), Package: proto.String("wkhook"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{
			{Name: proto.String("EventReq"), Field: []*descriptorpb.FieldDescriptorProto{field("event", 1, text), field("data", 2, binary)}},
			{Name: proto.String("EventResp"), Field: []*descriptorpb.FieldDescriptorProto{field("status", 1, number), field("data", 2, binary)}},
		},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	app := &application{
		server: grpc.NewServer(), answer: answer, req: file.Messages().Get(0), resp: file.Messages().Get(1),
	}
	app.server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "wkhook.WebhookService", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "SendWebhook", Handler: app.take}},
	}, app)
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = app.server.Serve(listener) }()
	t.Cleanup(app.server.Stop)
	return app, listener.Addr().String()
}

func (a *application) take(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	req := dynamicpb.NewMessage(a.req)
	if err := decode(req); err != nil {
		return nil, err
	}
	about, _ := metadata.FromIncomingContext(ctx)
	first := func(name string) string {
		if list := about.Get(name); len(list) > 0 {
			return list[0]
		}
		return ""
	}
	a.mu.Lock()
	a.calls = append(a.calls, call{
		req.Get(a.req.Fields().ByName("event")).String(), string(req.Get(a.req.Fields().ByName("data")).Bytes()),
		first(DeliveryHeader), first(SignatureHeader),
	})
	n := len(a.calls)
	a.mu.Unlock()
	result, err := a.answer(n)
	resp := dynamicpb.NewMessage(a.resp)
	resp.Set(a.resp.Fields().ByName("status"), protoreflect.ValueOfInt32(int32(result)))
	resp.Set(a.resp.Fields().ByName("data"), protoreflect.ValueOfBytes([]byte("not read")))
	return resp, err
}

func (a *application) seen() []call {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]call(nil), a.calls...)
}

// hooksTo returns hooks over a queue in memory, and what became of each try.
func hooksTo(t *testing.T, options Options) (*Hooks, fabric.Queue, chan string) {
	t.Helper()
	outcomes := make(chan string, 100)
	options.Timeout, options.Concurrency, options.MaxDead = 5*time.Second, 1, 10
	options.Logger = slog.New(slog.DiscardHandler)
	options.Sent = func(outcome string) { outcomes <- outcome }
	options.Dropped = func(reason string) { t.Errorf("dropped: %s", reason) }
	queue, err := memory.New().Queue(t.Context(), options.QueueConfig())
	if err != nil {
		t.Fatal(err)
	}
	hooks, err := New(options, queue)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var working sync.WaitGroup
	working.Go(func() {
		if err := queue.Work(ctx, hooks.send); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		working.Wait()
		if err := hooks.Close(); err != nil {
			t.Error(err)
		}
	})
	return hooks, queue, outcomes
}

func await(t *testing.T, outcomes <-chan string, want string) {
	t.Helper()
	for {
		select {
		case got := <-outcomes:
			if got == want {
				return
			}
		case <-time.After(time.Minute):
			t.Fatalf("no %s", want)
		}
	}
}

// TestGRPC refuses a request in both ways there are, and takes it then.
func TestGRPC(t *testing.T) {
	app, address := serveApplication(t, "127.0.0.1:0", func(call int) (int, error) {
		switch call {
		case 1:
			return 0, nil
		case 2:
			return statusSuccess, status.Error(codes.Internal, "the database is away")
		}
		return statusSuccess, nil
	})
	hooks, queue, outcomes := hooksTo(t, Options{
		GRPCAddr: address, URL: "http://127.0.0.1:1/not-told", Secret: "secret",
		Retry: fabric.RetryPolicy{Initial: time.Millisecond, Max: time.Millisecond, Elapsed: time.Minute},
	})
	if err := hooks.enqueue(t.Context(), "one", toApp, EventStored, []string{"hi", "é"}); err != nil {
		t.Fatal(err)
	}
	await(t, outcomes, "delivered")
	const body = `["hi","é"]`
	want := call{EventStored, body, "one", Sign("secret", []byte(body))}
	calls := app.seen()
	if len(calls) != 3 {
		t.Fatalf("%d calls, want 3", len(calls))
	}
	for i, got := range calls {
		if got != want {
			t.Errorf("call %d is %v, want %v", i, got, want)
		}
	}
	if letters, err := queue.DeadLetters(t.Context(), "", 10); err != nil || len(letters) != 0 {
		t.Errorf("dead letters %v, %v", letters, err)
	}
}

// TestGRPCAway begins while nobody serves the port.
func TestGRPCAway(t *testing.T) {
	address := process.Address(process.FreePorts(t, 1))
	hooks, _, outcomes := hooksTo(t, Options{
		GRPCAddr: address,
		Retry:    fabric.RetryPolicy{Initial: 50 * time.Millisecond, Max: 50 * time.Millisecond, Elapsed: time.Minute},
	})
	if err := hooks.enqueue(t.Context(), "", toApp, EventOnline, []string{"alice-1-1-1-1-1"}); err != nil {
		t.Fatal(err)
	}
	await(t, outcomes, "failed")
	app, _ := serveApplication(t, address, func(int) (int, error) { return statusSuccess, nil })
	await(t, outcomes, "delivered")
	if calls := app.seen(); len(calls) != 1 || calls[0].event != EventOnline || calls[0].signature != "" {
		t.Errorf("calls %v", calls)
	}
}

// TestGRPCDeadLetter gives up, and sends again on demand.
func TestGRPCDeadLetter(t *testing.T) {
	_, address := serveApplication(t, "127.0.0.1:0", func(call int) (int, error) { return min(call-1, statusSuccess), nil })
	hooks, _, outcomes := hooksTo(t, Options{GRPCAddr: address, Retry: fabric.RetryPolicy{}})
	if err := hooks.enqueue(t.Context(), "lost", toApp, EventOffline, 1); err != nil {
		t.Fatal(err)
	}
	await(t, outcomes, "dead_letter")
	list, err := hooks.DeadLetters(t.Context(), "", 10)
	letters := list.([]DeadLetter)
	if err != nil || len(letters) != 1 || letters[0].ID != "lost" || letters[0].Event != EventOffline {
		t.Fatalf("dead letters %v, %v", letters, err)
	}
	if err := hooks.Replay(t.Context(), "lost"); err != nil {
		t.Fatal(err)
	}
	await(t, outcomes, "delivered")
}

// TestNobody has requests left of a configuration that told agents.
func TestNobody(t *testing.T) {
	hooks, _, outcomes := hooksTo(t, Options{URL: "http://127.0.0.1:1/"})
	if err := hooks.enqueue(t.Context(), "", toAgents, EventStored, 1); err != nil {
		t.Fatal(err)
	}
	await(t, outcomes, "dead_letter")
	err := hooks.try(t.Context(), fabric.Job{Payload: []byte(`{"to":"agents"}`)})
	if !errors.Is(err, errNobody) || !errors.Is(err, fabric.ErrGiveUp) {
		t.Error(err)
	}
}

func TestEventCodec(t *testing.T) {
	codec := eventCodec{}
	data, err := codec.Marshal(&request{event: "e", body: []byte("body")})
	if want := []byte("\x0a\x01e\x12\x04body"); err != nil || !bytes.Equal(data, want) {
		t.Errorf("%q, %v, want %q", data, err, want)
	}
	for _, test := range []struct {
		data string
		want uint64
		ok   bool
	}{
		{"", 0, true},
		{"\x08\x01", 1, true},
		{"\x12\x02hi\x08\x01", 1, true},
		{"\x1d\x01\x02\x03\x04\x08\x01", 1, true}, // a field that nobody knows
		{"\x08", 0, false},
		{"\x12\x05hi", 0, false},
		{"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 0, false},
	} {
		var answer eventAnswer
		if err := codec.Unmarshal([]byte(test.data), &answer); err == nil != test.ok || test.ok && answer.status != test.want {
			t.Errorf("%q is %d, %v", test.data, answer.status, err)
		}
	}
}
