package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/parleyio/parley/client"
)

// ExampleNew calls a cluster of two nodes: it goes on with the other when one does not answer.
func ExampleNew() {
	nodes, stop := start(2)
	defer stop()

	c, err := client.New(client.Options{
		Endpoints: []string{nodes[0].http.URL, nodes[1].http.URL}, // http://10.0.0.5:6001, …
		Token:     token,
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := c.Cache().Set(ctx, "greeting", []byte("hello"), time.Minute); err != nil {
		log.Fatal(err)
	}
	nodes[0].stop()
	value, err := c.Cache().Get(ctx, "greeting")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", value)
	_, err = c.Cache().Get(ctx, "another")
	fmt.Println(errors.Is(err, client.ErrNotFound))
	// Output:
	// hello
	// true
}

// ExampleCache_Add counts what happens in a minute.
func ExampleCache_Add() {
	nodes, stop := start(1)
	defer stop()
	c, ctx := newClient(nodes, nil), context.Background()

	for range 3 {
		n, err := c.Cache().Add(ctx, "logins/alice", 1, time.Minute)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(n, n > 2)
	}
	// Output:
	// 1 false
	// 2 false
	// 3 true
}

// ExampleQueue_Work publishes jobs and works on them. One cannot be done, and becomes a dead letter.
func ExampleQueue_Work() {
	nodes, stop := start(1)
	defer stop()
	c, ctx := newClient(nodes, nil), context.Background()

	mail := c.Queue("mail")
	for _, address := range []string{"alice@example.com", "nobody"} {
		if _, err := mail.Publish(ctx, client.NewJob{ID: address, Payload: []byte("Hello, " + address)}); err != nil {
			log.Fatal(err)
		}
	}
	working, enough := context.WithCancel(ctx)
	left := 2
	err := mail.Work(working, client.WorkOptions{Concurrency: 1}, func(ctx context.Context, job *client.Lease) error {
		if left--; left == 0 {
			enough()
		}
		if job.ID == "nobody" {
			return fmt.Errorf("no such mailbox: %w", client.ErrGiveUp)
		}
		fmt.Printf("%s, in attempt %d\n", job.Payload, job.Attempt)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	letters, _, err := mail.DeadLetters(ctx, "", 10)
	if err != nil {
		log.Fatal(err)
	}
	for _, letter := range letters {
		fmt.Println(letter.ID, "-", letter.Reason)
	}
	// Output:
	// Hello, alice@example.com, in attempt 1
	// nobody - no such mailbox: give up
}

// ExampleClient_WithLock does something that two must not do at once. The token tells the holders
// apart, should one of them be stopped for longer than its lock lasts.
func ExampleClient_WithLock() {
	nodes, stop := start(1)
	defer stop()
	c, ctx := newClient(nodes, nil), context.Background()

	options := client.LockOptions{TTL: 10 * time.Second, Wait: time.Minute}
	var first uint64
	err := c.WithLock(ctx, "backup", options, func(ctx context.Context, token uint64) error {
		first = token
		return ctx.Err() // ends when the lock is lost
	})
	if err != nil {
		log.Fatal(err)
	}
	err = c.WithLock(ctx, "backup", options, func(_ context.Context, token uint64) error {
		fmt.Println("later holders have greater tokens:", token > first)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// later holders have greater tokens: true
}

// ExampleSignals_Subscribe hears what was said while nobody listened, and goes on from there.
func ExampleSignals_Subscribe() {
	nodes, stop := start(1)
	defer stop()
	c, ctx := newClient(nodes, nil), context.Background()

	for _, change := range []string{"collections.posts", "roles.admin", "collections.users"} {
		signal := client.NewSignal{Subject: "app." + change, Payload: []byte("reload")}
		if _, err := c.Signals().Publish(ctx, signal); err != nil {
			log.Fatal(err)
		}
	}
	listening, enough := context.WithCancel(ctx)
	handled := uint64(0) // kept by the application; 0 is the oldest that is kept
	options := client.SubscribeOptions{Subjects: []string{"app.collections.*"}, After: &handled}
	err := c.Signals().Subscribe(listening, options, func(s client.Signal) error {
		fmt.Printf("%s: %s\n", s.Subject, s.Payload)
		if handled = s.Position; s.Subject == "app.collections.users" {
			enough()
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// app.collections.posts: reload
	// app.collections.users: reload
}

// ExampleClient_Worker makes ids in this process.
func ExampleClient_Worker() {
	nodes, stop := start(1)
	defer stop()
	c, ctx := newClient(nodes, nil), context.Background()

	worker, err := c.Worker(ctx, 30*time.Second)
	if err != nil {
		log.Fatal(err)
	}
	one, err := worker.NewID()
	if err != nil {
		log.Fatal(err)
	}
	two, err := worker.NewID()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(worker.Number(), two > one, two < 1<<53)
	if err := worker.Release(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 0 true true
}
