package cluster

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

var testSecret = strings.Repeat("0123456789abcdef", 2)

// testPorts gives each test a range of ports of its own, so that they do not meet.
var testPorts = struct {
	sync.Mutex
	next int
}{}

func nextPort() int {
	testPorts.Lock()
	defer testPorts.Unlock()
	testPorts.next = (testPorts.next + 40) % 8000
	return 22000 + testPorts.next // below what the system gives to those who do not ask
}

func testOptions(t *testing.T) Options {
	return Options{
		DataDir: t.TempDir(), Secret: testSecret, Domain: "test", BindHost: "127.0.0.1",
		BindPort: nextPort(), PortTries: 10, ProbeTimeout: time.Second,
		Logger: slog.New(slog.DiscardHandler),
	}
}

// serveHello runs a hello service that says of itself what is given.
func serveHello(t *testing.T, options Options, told statement) (*Hello, string) {
	t.Helper()
	options, err := options.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	key, err := helloKey(options.Secret)
	if err != nil {
		t.Fatal(err)
	}
	hello, err := listenHello(options, key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hello.Close)
	hello.state(func(s *statement) { *s = told })
	hello.begin()
	return hello, hello.listener.Addr().String()
}

func askerOf(t *testing.T, options Options) asker {
	t.Helper()
	options.ProbeTimeout = 20 * time.Second // there is one question, on a machine that may be busy
	options, err := options.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	key, err := helloKey(options.Secret)
	if err != nil {
		t.Fatal(err)
	}
	return newAsker(options, key)
}

func seeking(n int) statement {
	return statement{Oldest: 1, Newest: 1, Phase: phaseSeeking, Self: testMember(n)}
}

func TestHelloAnswers(t *testing.T) {
	options := testOptions(t)
	told := seeking(1)
	told.Phase, told.Cluster, told.Members = phaseFormed, "c", []Member{testMember(1), testMember(2)}
	hello, address := serveHello(t, options, told)
	answer, err := askerOf(t, options).ask(t.Context(), address, seeking(3))
	if err != nil || answer.Cluster != "c" || len(answer.Members) != 2 || !answer.Self.same(testMember(1)) {
		t.Errorf("answer is %+v, %v", answer, err)
	}
	if heard := hello.heardOf(); len(heard) != 0 {
		t.Errorf("a formed node collects addresses: %v", heard)
	}
	hello.state(func(s *statement) { s.Phase, s.Cluster, s.Members = phaseSeeking, "", nil })
	if _, err := askerOf(t, options).ask(t.Context(), address, seeking(3)); err != nil {
		t.Fatal(err)
	}
	if heard := hello.heardOf(); len(heard) != 1 || heard[0] != "10.0.0.3:11110" {
		t.Errorf("addresses heard of are %v", heard)
	}
}

func TestHelloRefuses(t *testing.T) {
	_, address := serveHello(t, testOptions(t), seeking(1))
	other := testOptions(t)
	other.Secret = strings.Repeat("x", 32)
	if _, err := askerOf(t, other).ask(t.Context(), address, seeking(2)); !errors.Is(err, ErrSecret) {
		t.Errorf("other secret: %v", err)
	}
	other = testOptions(t)
	other.Domain = "elsewhere"
	if _, err := askerOf(t, other).ask(t.Context(), address, seeking(2)); !errors.Is(err, errOtherDomain) {
		t.Errorf("other domain: %v", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, "INFO {\"server_id\":\"x\"}\r\n")
			conn.Close()
		}
	}()
	_, err = askerOf(t, testOptions(t)).ask(t.Context(), listener.Addr().String(), seeking(2))
	if !errors.Is(err, errProtocol) {
		t.Errorf("no hello service: %v", err)
	}
}

// A listener that recorded one exchange can use neither side of it again.
func TestHelloReplayIsWorthNothing(t *testing.T) {
	options := testOptions(t)
	_, address := serveHello(t, options, seeking(1))
	var asked, answered bytes.Buffer
	relay := func(t *testing.T, serve func(net.Conn)) string {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		go func() {
			if conn, err := listener.Accept(); err == nil {
				serve(conn)
				conn.Close()
			}
		}()
		return listener.Addr().String()
	}
	through := relay(t, func(conn net.Conn) {
		upstream, err := net.Dial("tcp", address)
		if err != nil {
			return
		}
		go io.Copy(upstream, io.TeeReader(conn, &asked))
		io.Copy(conn, io.TeeReader(upstream, &answered))
		upstream.Close()
	})
	if _, err := askerOf(t, options).ask(t.Context(), through, seeking(2)); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(asked.String()+answered.String(), testSecret) {
		t.Error("the secret was sent")
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Write(asked.Bytes()); err != nil {
		t.Fatal(err)
	}
	if reply, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(reply), `{"refusal":"secret"}`) {
		t.Errorf("replayed question got %q, %v", reply, err)
	}
	fake := relay(t, func(conn net.Conn) { conn.Write(answered.Bytes()); io.Copy(io.Discard, conn) })
	if _, err := askerOf(t, options).ask(t.Context(), fake, seeking(2)); !errors.Is(err, ErrSecret) {
		t.Errorf("replayed answer: %v, want ErrSecret", err)
	}
}

func TestSealedFramesCannotBeChanged(t *testing.T) {
	key, script := bytes.Repeat([]byte("k"), 32), transcript([]byte("a"), []byte("b"))
	frame, err := seal(key, speakerAsked, script, seeking(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(key, speakerAsked, script, frame); err != nil {
		t.Fatal(err)
	}
	changed := bytes.Replace(frame, []byte("n1"), []byte("n2"), 1)
	tests := map[string]func() ([]byte, string, []byte){
		"body":       func() ([]byte, string, []byte) { return script, speakerAsked, changed },
		"speaker":    func() ([]byte, string, []byte) { return script, speakerAsker, frame },
		"transcript": func() ([]byte, string, []byte) { return transcript([]byte("ab"), nil), speakerAsked, frame },
	}
	for name, test := range tests {
		script, speaker, frame := test()
		if _, err := open(key, speaker, script, frame); !errors.Is(err, ErrSecret) {
			t.Errorf("other %s: %v, want ErrSecret", name, err)
		}
	}
}

func TestHelloIsBounded(t *testing.T) {
	hello, address := serveHello(t, testOptions(t), seeking(1))
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		return conn
	}
	large := dial()
	large.Write(binary.BigEndian.AppendUint32(nil, maxGreetingSize+1))
	if _, err := large.Read(make([]byte, 1)); err == nil {
		t.Error("a large frame was not refused")
	}
	var idle []net.Conn
	for range maxHelloConnsPeer {
		idle = append(idle, dial())
	}
	if _, err := dial().Read(make([]byte, 1)); !errors.Is(err, io.EOF) && err == nil {
		t.Errorf("one connection too many: %v", err)
	}
	for _, conn := range idle {
		conn.Close()
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		_, err := askerOf(t, testOptions(t)).ask(t.Context(), address, seeking(2))
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the service does not recover: %v", err)
		}
	}
	dial() // Close does not wait for it
	hello.Close()
}

func TestStatementOfTheLargestClusterFits(t *testing.T) {
	told := seeking(1)
	for n := range MaxMembers {
		told.Members = append(told.Members, testMember(n+1))
		told.Proposal = append(told.Proposal, testMember(n+1).ID)
	}
	told.Vote = told.Proposal
	for range maxLearned {
		told.Heard = append(told.Heard, strings.Repeat("h", 200)+":1")
	}
	if err := told.check(); err != nil {
		t.Fatal(err)
	}
	frame, err := seal([]byte("k"), speakerAsked, nil, told)
	if err != nil || len(frame) > maxAnswerSize {
		t.Errorf("%d bytes, %v", len(frame), err)
	}
	told.Members, told.Heard = nil, nil
	if frame, err = seal([]byte("k"), speakerAsker, nil, told); err != nil || len(frame) > maxQuestionSize {
		t.Errorf("question of %d bytes, %v", len(frame), err)
	}
	table := newTable(testMember(1), time.Second, 5*time.Second)
	for n := 2; n <= MaxMembers; n++ {
		table.heard(0, message{Kind: kindHeartbeat, Member: testMember(n)})
	}
	payload, err := json.Marshal(table.heartbeat(kindHeartbeat))
	if err != nil || len(payload) > maxHeartbeatSize {
		t.Errorf("heartbeat of %d bytes, %v", len(payload), err)
	}
	if e := table.heard(0, message{Kind: kindHeartbeat, Member: testMember(999)}); e.drop != DropMemberLimit {
		t.Errorf("one member too many: %+v", e)
	}
}

func testTLS(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(certificate)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs: pool, ClientCAs: pool}
}

func TestHelloOverTLSIsMutual(t *testing.T) {
	options := testOptions(t)
	options.TLS = testTLS(t)
	_, address := serveHello(t, options, seeking(1))
	if _, err := askerOf(t, options).ask(t.Context(), address, seeking(2)); err != nil {
		t.Errorf("with certificate: %v", err)
	}
	asker := askerOf(t, options)
	asker.tls.Certificates = nil
	if _, err := asker.ask(t.Context(), address, seeking(2)); err == nil {
		t.Error("answered without a certificate")
	}
	asker.tls = nil
	if _, err := asker.ask(t.Context(), address, seeking(2)); err == nil {
		t.Error("answered without TLS")
	}
	options.TLS = &tls.Config{}
	if _, err := Discover(t.Context(), options); !errors.Is(err, ErrInvalidOptions) {
		t.Errorf("TLS without certificates: %v", err)
	}
}

func TestVerification(t *testing.T) {
	options := testOptions(t)
	hello, address := serveHello(t, options, seeking(1))
	verify := dialVerifier(askerOf(t, options), testMember(2))
	member := testMember(1)
	member.Addresses = map[string]string{AddressHello: address}
	if verify(t.Context(), member) {
		t.Error("a process that answers is dead")
	}
	restarted := member
	restarted.Instance = "00000000000000ff"
	if !verify(t.Context(), restarted) {
		t.Error("a process whose successor answers is alive")
	}
	hello.Close()
	if !verify(t.Context(), member) {
		t.Error("a process that does not listen is alive")
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if verify(canceled, member) {
		t.Error("dead without having asked")
	}
}
