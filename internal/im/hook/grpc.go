package hook

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
)

// grpcMethod is WuKongIM's call of an application that is told over gRPC; its messages are in
// docs/reference/webhook.proto.
const grpcMethod = "/wkhook.WebhookService/SendWebhook"

const (
	// grpcBackoff is the longest pause between two tries to connect: an application that is back is
	// told soon, however long it was away.
	grpcBackoff = 5 * time.Second
	// grpcQuiet is how long nothing may come before the connection is tried by a ping; servers end
	// connections that ping more often. grpcPing is how long the answer may take.
	grpcQuiet = 5 * time.Minute
	grpcPing  = 10 * time.Second
)

// grpcSender calls the application over one connection, without TLS as in the original.
type grpcSender struct {
	conn    *grpc.ClientConn
	timeout time.Duration
}

func newGRPCSender(options Options) (*grpcSender, error) {
	pauses := backoff.DefaultConfig
	pauses.MaxDelay = grpcBackoff
	conn, err := grpc.NewClient(options.GRPCAddr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: pauses, MinConnectTimeout: grpcBackoff}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: grpcQuiet, Timeout: grpcPing}),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(eventCodec{}), grpc.MaxCallRecvMsgSize(maxAnswer)),
	)
	if err != nil {
		return nil, fmt.Errorf("open the webhooks to %s: %w", options.GRPCAddr, err)
	}
	return &grpcSender{conn, options.Timeout}, nil
}

// errRefused says that the application was reached and did not take a request.
var errRefused = errors.New("the application answered with status Error")

func (s *grpcSender) send(ctx context.Context, r request) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	about := []string{strings.ToLower(DeliveryHeader), r.delivery}
	if r.signature != "" {
		about = append(about, strings.ToLower(SignatureHeader), r.signature)
	}
	var answer eventAnswer
	err := s.conn.Invoke(metadata.AppendToOutgoingContext(ctx, about...), grpcMethod, &r, &answer)
	if err == nil && answer.status != statusSuccess {
		err = errRefused
	}
	return err
}

func (s *grpcSender) close() error { return s.conn.Close() }

// Fields of EventReq and EventResp, and the value of EventResp.status that has taken the request.
const (
	fieldEvent  protowire.Number = 1
	fieldData   protowire.Number = 2
	fieldStatus protowire.Number = 1

	statusSuccess = 1
)

// eventAnswer is EventResp.
type eventAnswer struct{ status uint64 }

// eventCodec writes EventReq and reads EventResp. There are two fields in each.
type eventCodec struct{}

// Name implements encoding.Codec: to the application it is protobuf.
func (eventCodec) Name() string { return "proto" }

// Marshal implements encoding.Codec.
func (eventCodec) Marshal(v any) ([]byte, error) {
	r, ok := v.(*request)
	if !ok {
		return nil, fmt.Errorf("encode a webhook: %T is none", v)
	}
	data := make([]byte, 0, len(r.event)+len(r.body)+16)
	data = protowire.AppendString(protowire.AppendTag(data, fieldEvent, protowire.BytesType), r.event)
	return protowire.AppendBytes(protowire.AppendTag(data, fieldData, protowire.BytesType), r.body), nil
}

// Unmarshal implements encoding.Codec.
func (eventCodec) Unmarshal(data []byte, v any) error {
	answer, ok := v.(*eventAnswer)
	if !ok {
		return fmt.Errorf("read an answer to a webhook: %T is none", v)
	}
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return fmt.Errorf("read an answer to a webhook: %w", protowire.ParseError(n))
		}
		data = data[n:]
		if number == fieldStatus && kind == protowire.VarintType {
			answer.status, n = protowire.ConsumeVarint(data)
		} else {
			n = protowire.ConsumeFieldValue(number, kind, data)
		}
		if n < 0 {
			return fmt.Errorf("read an answer to a webhook: %w", protowire.ParseError(n))
		}
		data = data[n:]
	}
	return nil
}
