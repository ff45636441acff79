//go:build linux

package faults

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// app is an app of the tests: its key is its name.
type app string

// Apps of the tests.
const (
	mainApp  app = "app"    // of the population and its traffic
	probeApp app = "probes" // of what is tried beside
	quotaApp app = "quota"  // for quotaSize connections
)

// quotaSize is how many connections the app may have in the whole cluster.
const quotaSize = 6

// appSecret is that of every app.
const appSecret = "secret"

// requestTimeout bounds a request to a node that may be paused or dead.
const requestTimeout = 40 * time.Second

var httpClient = &http.Client{Timeout: requestTimeout, Transport: &http.Transport{MaxIdleConnsPerHost: 8}}

func sign(text string) string {
	mac := hmac.New(sha256.New, []byte(appSecret))
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil))
}

// call makes a request as the Pusher libraries do, signed with the time that the node has,
// and decodes the answer into into, unless that is nil.
func (n *node) call(ctx context.Context, a app, method, path string, query url.Values, body []byte, into any) error {
	return n.callAt(ctx, time.Now().Add(n.step()), a, method, path, query, body, into)
}

// callAt does the same with another time.
func (n *node) callAt(ctx context.Context, at time.Time, a app, method, path string, query url.Values, body []byte, into any) error {
	path = "/apps/" + string(a) + path
	if query == nil {
		query = url.Values{}
	}
	query.Set("auth_key", string(a))
	query.Set("auth_timestamp", strconv.FormatInt(at.Unix(), 10))
	query.Set("auth_version", "1.0")
	if body != nil {
		sum := md5.Sum(body)
		query.Set("body_md5", hex.EncodeToString(sum[:]))
	}
	plain, err := url.QueryUnescape(query.Encode()) // sorted, as the signature demands
	if err != nil {
		return err
	}
	query.Set("auth_signature", sign(method+"\n"+path+"\n"+plain))
	request, err := http.NewRequestWithContext(ctx, method, "http://"+n.address()+path+"?"+query.Encode(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	return do(request, into)
}

// admin makes a request to the administration API.
func (n *node) admin(ctx context.Context, method, path string, body []byte, into any) error {
	request, err := http.NewRequestWithContext(ctx, method, "http://"+n.address()+"/admin/v1/"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+adminToken)
	request.Header.Set("Content-Type", "application/json")
	return do(request, into)
}

func do(request *http.Request, into any) error {
	answer, err := httpClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }() // read to its end
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %d %s", request.Method, request.URL.Path, answer.StatusCode, strings.TrimSpace(string(text)))
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(text, into)
}

// publish sends an event to channels through this node.
func (n *node) publish(ctx context.Context, a app, name, data string, channels ...string) error {
	body, err := json.Marshal(map[string]any{"name": name, "data": data, "channels": channels})
	if err != nil {
		return err
	}
	return n.call(ctx, a, http.MethodPost, "/events", nil, body, nil)
}

// occupancy is what a node tells of channels: for each channel the number of subscriptions,
// and of presence channels the sorted users.
type occupancy struct {
	subscriptions map[string]int
	users         map[string][]string
}

// observe asks a node for all channels in the three ways there are.
func (n *node) observe(ctx context.Context) (occupancy, error) {
	o := occupancy{map[string]int{}, map[string][]string{}}
	var all struct {
		Channels map[string]struct {
			SubscriptionCount int `json:"subscription_count"`
		}
	}
	if err := n.call(ctx, mainApp, http.MethodGet, "/channels", url.Values{"info": {"subscription_count"}}, nil, &all); err != nil {
		return o, err
	}
	for channel, listed := range all.Channels {
		var one struct {
			Occupied          bool
			UserCount         int `json:"user_count"`
			SubscriptionCount int `json:"subscription_count"`
		}
		info := "subscription_count"
		presence := strings.HasPrefix(channel, "presence-")
		if presence {
			info += ",user_count"
		}
		if err := n.call(ctx, mainApp, http.MethodGet, "/channels/"+channel, url.Values{"info": {info}}, nil, &one); err != nil {
			return o, err
		}
		if !one.Occupied || one.SubscriptionCount != listed.SubscriptionCount {
			return o, fmt.Errorf("%s of %s: listed with %d, by itself %+v", channel, n.name, listed.SubscriptionCount, one)
		}
		o.subscriptions[channel] = one.SubscriptionCount
		if !presence {
			continue
		}
		var users struct{ Users []struct{ ID string } }
		if err := n.call(ctx, mainApp, http.MethodGet, "/channels/"+channel+"/users", nil, nil, &users); err != nil {
			return o, err
		}
		if len(users.Users) != one.UserCount {
			return o, fmt.Errorf("%s of %s: %d users listed, user_count %d", channel, n.name, len(users.Users), one.UserCount)
		}
		for _, user := range users.Users {
			o.users[channel] = append(o.users[channel], user.ID)
		}
	}
	return o, nil
}
