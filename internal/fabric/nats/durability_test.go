package nats_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/engine"
	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/nats"
)

// childVariable names, in the environment of the process that is to be killed, the data
// directory it writes to.
const childVariable = "PARLEY_TEST_DURABILITY_DIR"

// TestMain lets this binary be that process, or a node of a cluster.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childVariable); dir != "" {
		if err := writeUntilKilled(dir); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
	}
	if config := os.Getenv(nodeVariable); config != "" {
		if err := runNode(config); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func durableQueue(name string) fabric.QueueConfig {
	return fabric.QueueConfig{
		Name: name, Visibility: time.Second, MaxJobs: 1_000_000, MaxDead: 1_000_000, Concurrency: 4,
		Retry: fabric.RetryPolicy{Initial: time.Millisecond, Max: time.Millisecond, Elapsed: time.Hour},
	}
}

// writeUntilKilled prints a line for each write after it was acknowledged.
func writeUntilKilled(dir string) error {
	ctx := context.Background()
	e, err := engine.Start(ctx, engine.Options{DataDir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	conn, err := e.Connect("child")
	if err != nil {
		return err
	}
	p, err := nats.New(conn, nats.Options{})
	if err != nil {
		return err
	}
	d, err := p.Documents(ctx, "docs")
	if err != nil {
		return err
	}
	queues := map[string]fabric.Queue{}
	for _, name := range []string{"waiting", "doomed", "busy"} {
		if queues[name], err = p.Queue(ctx, durableQueue(name)); err != nil {
			return err
		}
	}
	go queues["doomed"].Work(ctx, func(context.Context, fabric.Job) error { return fabric.ErrGiveUp })
	go queues["busy"].Work(ctx, func(_ context.Context, job fabric.Job) error {
		if job.Attempt < 3 {
			return errors.New("not yet")
		}
		fmt.Println("busy", job.ID)
		select {} // until the process is killed
	})
	if _, err := queues["busy"].Enqueue(ctx, fabric.Job{ID: "busy"}); err != nil {
		return err
	}
	failed := make(chan error)
	for writer := range 4 {
		go func() { failed <- writeForever(ctx, writer, d, queues["waiting"], queues["doomed"]) }()
	}
	return <-failed
}

func writeForever(ctx context.Context, writer int, d fabric.Documents, waiting, doomed fabric.Queue) error {
	var revision uint64
	for i := 0; ; i++ {
		id := fmt.Sprintf("%d-%d", writer, i)
		if _, err := d.Put(ctx, id, []byte(id), 0); err != nil {
			return err
		}
		fmt.Println("doc", id)
		var err error
		revision, err = d.Put(ctx, "counter-"+strconv.Itoa(writer), []byte(strconv.Itoa(i)), revision)
		if err != nil {
			return err
		}
		fmt.Println("counter", writer, i)
		if _, err := waiting.Enqueue(ctx, fabric.Job{ID: id, Payload: []byte(id)}); err != nil {
			return err
		}
		fmt.Println("waiting", id)
		if _, err := doomed.Enqueue(ctx, fabric.Job{ID: id, Payload: []byte(id)}); err != nil {
			return err
		}
		fmt.Println("doomed", id)
	}
}

// TestDurability kills a process in the midst of its writes and looks for all that was
// acknowledged.
func TestDurability(t *testing.T) {
	dir := t.TempDir()
	acknowledged := runAndKill(t, dir, 200)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute) // a slow disk takes long for each write
	defer cancel()
	p := openProvider(t, startEngine(t, dir, engine.SyncAlways))

	d, err := p.Documents(ctx, "docs")
	if err != nil {
		t.Fatal(err)
	}
	list, err := d.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for _, document := range list {
		values[document.Key] = string(document.Value)
	}
	for _, id := range acknowledged["doc"] {
		if values[id] != id {
			t.Errorf("document %s is %q", id, values[id])
		}
	}
	for _, count := range acknowledged["counter"] {
		writer, want, _ := strings.Cut(count, " ")
		least, _ := strconv.Atoi(want)
		if got, err := strconv.Atoi(values["counter-"+writer]); err != nil || got < least {
			t.Errorf("counter %s is %d, was acknowledged at %d", writer, got, least)
		}
	}
	wantAll(t, "waiting", acknowledged["waiting"], drain(ctx, t, p, "waiting"))
	wantAll(t, "doomed", acknowledged["doomed"], drain(ctx, t, p, "doomed"))
	if jobs := drain(ctx, t, p, "busy"); jobs["busy"] != 3 {
		t.Errorf("the job being worked on came back as %v, want attempt 3", jobs)
	}
}

// runAndKill runs the child until it has acknowledged so many writes, and returns what they
// were by their kind.
func runAndKill(t *testing.T, dir string, writes int) map[string][]string {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childVariable+"="+dir)
	child.Stderr = t.Output()
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	timeout := time.AfterFunc(3*time.Minute, func() { _ = child.Process.Kill() })
	defer timeout.Stop()
	acknowledged := map[string][]string{}
	lines := bufio.NewScanner(out)
	killed := false
	for n := 0; lines.Scan(); n++ {
		kind, rest, _ := strings.Cut(lines.Text(), " ")
		acknowledged[kind] = append(acknowledged[kind], rest)
		if n >= writes && len(acknowledged["busy"]) > 0 && !killed {
			killed = true
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = child.Wait() // says that it was killed
	if !killed {
		t.Fatalf("child ended by itself or did not get far: %v", acknowledged["error"])
	}
	return acknowledged
}

// drain does all jobs of a queue and returns, by ID, in which attempt they arrived. Jobs
// among the dead letters count with attempt 0.
func drain(ctx context.Context, t *testing.T, p fabric.Provider, name string) map[string]int {
	t.Helper()
	q, err := p.Queue(ctx, durableQueue(name))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for after := ""; ; {
		page, err := q.DeadLetters(ctx, after, fabric.MaxDeadLettersPage)
		if err != nil {
			t.Fatal(err)
		}
		for _, letter := range page {
			found[letter.ID] = 0
			after = letter.ID
		}
		if len(page) == 0 {
			break
		}
	}
	jobs := make(chan fabric.Job, 1_000_000)
	work, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() {
		done <- q.Work(work, func(_ context.Context, job fabric.Job) error {
			jobs <- job
			return nil
		})
	}()
	for n := -1; n != 0 && ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		if n, err = q.Len(ctx); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	close(jobs)
	for job := range jobs {
		found[job.ID] = job.Attempt
	}
	return found
}

func wantAll(t *testing.T, what string, want []string, got map[string]int) {
	t.Helper()
	if len(want) == 0 {
		t.Errorf("%s: nothing was acknowledged", what)
	}
	for _, id := range want {
		if _, ok := got[id]; !ok {
			t.Errorf("%s: job %s was acknowledged and is lost", what, id)
		}
	}
}
