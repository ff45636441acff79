package pusher

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleyio/parley/internal/pusher/apps"
)

// Above a hundred subscribers the count is told at most every five seconds, and the last
// number is told in the end.
func TestSubscriptionCountIsThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t)
		s.app.EnableSubscriptionCount = true
		s.app.Limits = apps.Limits{}
		subscribe := func(from, to int) {
			for i := from; i < to; i++ {
				s.connect(fmt.Sprint("c", i))
				s.command(fmt.Sprintf(`c%d > {"event":"pusher:subscribe","data":{"channel":"news"}}`, i))
			}
		}
		count := func() int { return strings.Count(s.soFar(), `webhook {"name":"subscription_count"`) }
		subscribe(0, 100)
		if got := count(); got != 100 {
			t.Fatalf("%d tellings up to 100 subscribers, want each", got)
		}
		subscribe(100, 150)
		if got := count(); got != 100 {
			t.Fatalf("%d tellings at once above 100 subscribers", got-100)
		}
		time.Sleep(countInterval + time.Millisecond)
		synctest.Wait()
		if got := count(); got != 101 || !strings.Contains(s.soFar(), `"subscription_count":150}`) {
			t.Fatalf("%d tellings after the interval, want one of 150", got-100)
		}
		subscribe(150, 151)
		time.Sleep(countInterval - time.Second)
		synctest.Wait()
		if got := count(); got != 101 {
			t.Fatalf("told %d times within the interval", got-101)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := count(); got != 102 {
			t.Fatalf("the last number was told %d times", got-101)
		}
	})
}

// The last count is told although the channel is gone when the next one would be due.
func TestLastSubscriptionCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t)
		s.app.EnableSubscriptionCount = true
		s.app.Limits = apps.Limits{}
		const clients = 120
		for i := range clients {
			s.connect(fmt.Sprint("c", i))
			s.command(fmt.Sprintf(`c%d > {"event":"pusher:subscribe","data":{"channel":"news"}}`, i))
		}
		for i := range clients {
			s.command(fmt.Sprintf(`c%d > {"event":"pusher:unsubscribe","data":{"channel":"news"}}`, i))
		}
		if n := strings.Count(s.soFar(), `"subscription_count":0}`); n != 1 {
			t.Fatalf("the last count was told %d times", n)
		}
		time.Sleep(2 * countInterval)
		synctest.Wait()
		text := s.soFar()
		if last := text[strings.LastIndex(text, `"subscription_count":`):]; !strings.HasPrefix(last, `"subscription_count":0}`) {
			t.Errorf("the last word is %.40s", last)
		}
	})
}
