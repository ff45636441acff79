package redis

import (
	"context"
	"crypto/sha1" // the server knows scripts by it
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// waitTimeout is how long the server waits for replicas before it says how many there were. The
// next try waits again.
const waitTimeout = tryTimeout / 2

// errReplicas says that too few replicas have a write.
var errReplicas = errors.New("too few replicas have it")

//go:embed lua/*.lua
var files embed.FS

// script is one of the files in lua, which the server runs as one step. A script whose name
// begins with a word and an underscore has the file of that word before it, if there is one,
// and all have common.lua.
//
// The client library has a helper of the kind, but it cannot have a WAIT follow on the same
// connection.
type script struct{ text, sha string }

// load reads a script. Its name is a constant of this package.
func load(name string) *script {
	family, _, _ := strings.Cut(name, "_")
	var text strings.Builder
	for _, part := range []string{"common", family, name} {
		content, err := files.ReadFile("lua/" + part + ".lua")
		if err != nil && part == name {
			panic(err)
		}
		text.Write(content)
	}
	sum := sha1.Sum([]byte(text.String()))
	return &script{text: text.String(), sha: hex.EncodeToString(sum[:])}
}

// command returns what runs the script, by its hash or by its text.
func (s *script) command(b rueidis.Builder, byText bool, keys, args []string) rueidis.Completed {
	if byText {
		return b.Eval().Script(s.text).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build()
	}
	return b.Evalsha().Sha1(s.sha).Numkeys(int64(len(keys))).Key(keys...).Arg(args...).Build()
}

// run runs a script that bears repetition, by as many tries as that takes.
func (p *Provider) run(ctx context.Context, s *script, keys, args []string) (rueidis.RedisMessage, error) {
	return p.runWith(ctx, p.do, s, keys, args)
}

// runDurable is run for what WaitReplicas holds for.
func (p *Provider) runDurable(ctx context.Context, s *script, keys, args []string) (rueidis.RedisMessage, error) {
	if p.options.WaitReplicas == 0 {
		return p.run(ctx, s, keys, args)
	}
	return p.runWith(ctx, p.doAndWait, s, keys, args)
}

func (p *Provider) runWith(
	ctx context.Context, do func(context.Context, rueidis.Completed) rueidis.RedisResult,
	s *script, keys, args []string,
) (answer rueidis.RedisMessage, err error) {
	err = p.tries(ctx, func(ctx context.Context) error {
		result := do(ctx, s.command(p.client.B(), false, keys, args))
		if word(result.Error()) == "NOSCRIPT" {
			result = do(ctx, s.command(p.client.B(), true, keys, args))
		}
		answer, err = result.ToMessage()
		return err
	})
	return answer, err
}

func (p *Provider) do(ctx context.Context, command rueidis.Completed) rueidis.RedisResult {
	return p.client.Do(ctx, command)
}

// doAndWait has the server wait for replicas behind the command. Both go over one connection that
// nobody else uses meanwhile, as the server waits for what came over the same one.
func (p *Provider) doAndWait(ctx context.Context, command rueidis.Completed) (result rueidis.RedisResult) {
	if !p.options.Cluster {
		return p.waitBehind(ctx, p.client, command)
	}
	// The client of a cluster would send a command that has come to the wrong node to the right
	// one, and leave the WAIT behind.
	_ = p.client.Dedicated(func(d rueidis.DedicatedClient) error {
		if result = p.waitBehind(ctx, d, command); result.Error() != nil {
			d.Close()
		}
		return nil
	})
	return result
}

func (p *Provider) waitBehind(
	ctx context.Context, client rueidis.CommandClient, command rueidis.Completed,
) rueidis.RedisResult {
	wanted := int64(p.options.WaitReplicas)
	wait := p.client.B().Wait().Numreplicas(wanted).Timeout(waitTimeout.Milliseconds()).Build()
	results := client.DoMulti(ctx, command, wait)
	if results[0].Error() != nil {
		return results[0]
	}
	have, err := results[1].AsInt64()
	if err == nil && have < wanted {
		err = fmt.Errorf("%w: %d of %d", errReplicas, have, wanted)
	}
	if err != nil {
		return rueidis.NewErrorResult(err)
	}
	return results[0]
}

// number reads a whole number from an answer.
func number(m rueidis.RedisMessage) (uint64, error) {
	text, err := m.ToString()
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errAnswer, err)
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errAnswer, err)
	}
	return n, nil
}

// list reads a list from an answer, with at least so many elements.
func list(m rueidis.RedisMessage, atLeast int) ([]rueidis.RedisMessage, error) {
	parts, err := m.ToArray()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAnswer, err)
	}
	if len(parts) < atLeast {
		return nil, fmt.Errorf("%w: %d of %d parts", errAnswer, len(parts), atLeast)
	}
	return parts, nil
}

// milliseconds is a duration as the server takes it.
func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
