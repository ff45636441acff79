package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/pusher/apps"
)

// The worked example of Pusher's documentation.
const (
	vectorBody      = `{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}`
	vectorTime      = 1353088179
	vectorQuery     = "auth_key=" + vectorKey + "&auth_timestamp=1353088179&auth_version=1.0&body_md5=ec365a775a4cd0599faeb73354201b6f"
	vectorSignature = "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c"
)

func TestVerifyWorkedExample(t *testing.T) {
	target := "/apps/3/events?" + vectorQuery + "&auth_signature=" + vectorSignature
	request := httptest.NewRequest(http.MethodPost, target, nil)
	for _, seconds := range []int64{0, -600, 600} {
		now := time.Unix(vectorTime+seconds, 0)
		if err := check(request, []byte(vectorBody), vectorApp(), now); err != nil {
			t.Errorf("%d seconds off: %v", seconds, err)
		}
	}
	for _, seconds := range []int64{-601, 601} {
		now := time.Unix(vectorTime+seconds, 0)
		if err := check(request, []byte(vectorBody), vectorApp(), now); err == nil || !strings.Contains(err.Error(), "Timestamp") {
			t.Errorf("%d seconds off: %v", seconds, err)
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	good := vectorQuery + "&auth_signature=" + vectorSignature
	tests := map[string]struct {
		query string
		body  string
		tell  string
	}{
		"another secret":        {strings.Replace(good, "da45", "0000", 1), vectorBody, "Invalid signature"},
		"upper-case signature":  {vectorQuery + "&auth_signature=" + strings.ToUpper(vectorSignature), vectorBody, "Invalid signature"},
		"no signature":          {vectorQuery, vectorBody, "Invalid signature"},
		"another key":           {strings.Replace(good, vectorKey, "278d425bdf160c739804", 1), vectorBody, "auth_key"},
		"no key":                {strings.Replace(good, "auth_key", "other", 1), vectorBody, "auth_key"},
		"another version":       {strings.Replace(good, "=1.0", "=2.0", 1), vectorBody, "auth_version"},
		"no timestamp":          {strings.Replace(good, "auth_timestamp", "other", 1), vectorBody, "auth_timestamp"},
		"timestamp of a float":  {strings.Replace(good, "1353088179", "1353088179.5", 1), vectorBody, "auth_timestamp"},
		"timestamp beyond time": {strings.Replace(good, "1353088179", "9223372036854775807", 1), vectorBody, "Timestamp"},
		"least timestamp":       {strings.Replace(good, "1353088179", "-9223372036854775808", 1), vectorBody, "Timestamp"},
		"another body":          {good, vectorBody + " ", "body_md5"},
		"no body":               {good, "", "body_md5"},
		"no body_md5":           {strings.Replace(good, "body_md5", "other", 1), vectorBody, "body_md5"},
		"another parameter":     {good + "&more=1", vectorBody, "Invalid signature"},
		"repeated parameter":    {good + "&auth_version=1.0", vectorBody, "Invalid signature"},
	}
	for name, test := range tests {
		request := httptest.NewRequest(http.MethodPost, "/apps/3/events?"+test.query, nil)
		err := check(request, []byte(test.body), vectorApp(), time.Unix(vectorTime, 0))
		if err == nil || !strings.Contains(err.Error(), test.tell) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVerifyGarbledQuery(t *testing.T) {
	request := httptest.NewRequest(http.MethodGet, "/apps/3/channels", nil)
	request.URL.RawQuery = "auth_key=%zz"
	if err := check(request, nil, vectorApp(), time.Now()); err == nil || err.(*requestError).status != http.StatusBadRequest {
		t.Error(err)
	}
}

func TestSignatureOverHTTP(t *testing.T) {
	other := &apps.App{ID: "4", Key: "otherkey", Secret: "othersecret", Enabled: true}
	f := newFixture(t, nil, other)
	now := time.Now()
	const path, body = "/apps/3/events", vectorBody
	request := func(query string) answer { return f.do(http.MethodPost, path+"?"+query, body) }

	request(sign(vectorKey, vectorSecret, "POST", path, body, now)).want(t, 200, "{}")
	request(sign(vectorKey, vectorSecret, "POST", path, body, now.Add(-599*time.Second))).want(t, 200, "{}")
	request(sign(vectorKey, vectorSecret, "POST", path, body, now.Add(-700*time.Second))).refused(t, 401, "Timestamp")
	request(sign(vectorKey, vectorSecret, "POST", path, body, now.Add(700*time.Second))).refused(t, 401, "Timestamp")
	request(sign(vectorKey, "guess", "POST", path, body, now)).refused(t, 401, "Invalid signature")
	request(sign(vectorKey, vectorSecret, "GET", path, body, now)).refused(t, 401, "Invalid signature")
	request(sign(vectorKey, vectorSecret, "POST", "/apps/4/events", body, now)).refused(t, 401, "Invalid signature")
	// Another app's credentials are good for that app alone.
	request(sign(other.Key, other.Secret, "POST", path, body, now)).refused(t, 401, "auth_key")
	request(sign(vectorKey, other.Secret, "POST", path, body, now)).refused(t, 401, "Invalid signature")
	request("").refused(t, 401, "auth_key")
}

func TestSignatureOfQueries(t *testing.T) {
	f := newFixture(t, nil)
	const path = "/apps/3/channels"
	now := time.Now()
	get := func(signed ...string) answer {
		return f.do("GET", path+"?"+sign(vectorKey, vectorSecret, "GET", path, "", now, signed...), "")
	}
	const empty = `{"channels":{}}`
	get().want(t, 200, empty)
	get("info=subscription_count").want(t, 200, empty)
	get("filter_by_prefix=presence-", "info=user_count,subscription_count").want(t, 200, empty)
	get("filter_by_prefix=a b&c=%41/ü").want(t, 200, empty) // values are signed as they are
	get("body_md5=d41d8cd98f00b204e9800998ecf8427e").want(t, 200, empty)
	get("body_md5=ec365a775a4cd0599faeb73354201b6f").refused(t, 401, "body_md5")

	// Names are signed in lower case whatever they are in the query.
	query := sign(vectorKey, vectorSecret, "GET", path, "", now, "filter_by_prefix=x")
	query = strings.Replace(query, "filter_by_prefix", "Filter_By_Prefix", 1)
	f.do("GET", path+"?"+query, "").want(t, 200, empty)

	// Libraries differ in how they sign an array.
	array := func(text string) {
		t.Helper()
		query := sign(vectorKey, vectorSecret, "GET", path, "", now, text)
		head, _, _ := strings.Cut(query, "&info")
		_, tail, _ := strings.Cut(query, "&auth_signature")
		f.do("GET", path+"?"+head+"&info[]=subscription_count&info[]=cache&auth_signature"+tail, "").want(t, 200, empty)
	}
	array("info[]=subscription_count,cache")
	array("info[]=subscription_count&info[]=cache")
}

// The info of an array is understood as that of a list.
func TestInfoAsArray(t *testing.T) {
	f := newFixture(t, nil)
	f.get("/channels", "info[]=user_count").refused(t, 400, "user_count")
}

func TestSignatureOfPaths(t *testing.T) {
	prefixed := func(o *Options) { o.PathPrefix = "/realtime/" }
	now := time.Now()
	const unoccupied = `{"occupied":false}`
	for _, test := range []struct {
		name, sent, signed string
		change             func(*Options)
	}{
		{"plain", "/apps/3/channels/a-b", "/apps/3/channels/a-b", nil},
		{"escaped, signed escaped", "/apps/3/channels/presence-a%40b", "/apps/3/channels/presence-a%40b", nil},
		{"escaped, signed raw", "/apps/3/channels/presence-a%40b", "/apps/3/channels/presence-a@b", nil},
		{"raw, signed raw", "/apps/3/channels/presence-a@b", "/apps/3/channels/presence-a@b", nil},
		{"user channel", "/apps/3/channels/%23server-to-user-a%2Fb", "/apps/3/channels/#server-to-user-a/b", nil},
		{"user channel, signed escaped", "/apps/3/channels/%23server-to-user-a%2fb", "/apps/3/channels/%23server-to-user-a%2fb", nil},
		{"prefix, not signed", "/realtime/apps/3/channels/a", "/apps/3/channels/a", prefixed},
		{"prefix, signed", "/realtime/apps/3/channels/a", "/realtime/apps/3/channels/a", prefixed},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t, test.change)
			f.do("GET", test.sent+"?"+sign(vectorKey, vectorSecret, "GET", test.signed, "", now), "").want(t, 200, unoccupied)
			f.do("GET", test.sent+"?"+sign(vectorKey, vectorSecret, "GET", test.signed+"x", "", now), "").
				refused(t, 401, "Invalid signature")
		})
	}
}

func TestUnknownAndDisabledApps(t *testing.T) {
	disabled := &apps.App{ID: "off", Key: "offkey", Secret: "offsecret"}
	f := newFixture(t, nil, disabled)
	f.do("GET", "/apps/nobody/channels?"+sign(vectorKey, vectorSecret, "GET", "/apps/nobody/channels", "", time.Now()), "").
		refused(t, 404, "Unknown app")
	f.do("GET", "/apps/off/channels?"+sign("offkey", "offsecret", "GET", "/apps/off/channels", "", time.Now()), "").
		refused(t, 403, "disabled")
	// Whether an app is disabled is told only to who knows its secret.
	f.do("GET", "/apps/off/channels?"+sign("offkey", "guess", "GET", "/apps/off/channels", "", time.Now()), "").refused(t, 401)
}

func TestRoutes(t *testing.T) {
	f := newFixture(t, nil)
	for _, test := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/", 404},
		{"GET", "/apps/3", 404},
		{"GET", "/apps/3/nothing", 404},
		{"POST", "/apps/3/channels/a/b/c", 404},
		{"GET", "/apps//channels", 404},
		{"GET", "/apps/3/events", 405},
		{"PUT", "/apps/3/events", 405},
		{"GET", "/apps/3/batch_events", 405},
		{"POST", "/apps/3/channels", 405},
		{"DELETE", "/apps/3/channels/a", 405},
		{"GET", "/apps/3/users/u/terminate_connections", 405},
		{"POST", "/app/" + vectorKey, 405},
	} {
		a := f.do(test.method, test.path, "")
		if a.status != test.status {
			t.Errorf("%s %s: %d", test.method, test.path, a.status)
		}
		if test.status == 405 && a.header.Get("Allow") == "" {
			t.Errorf("%s %s: no Allow", test.method, test.path)
		}
	}
}

// check verifies a request as handle does: what is signed first, then the body.
func check(r *http.Request, body []byte, app *apps.App, now time.Time) error {
	r.ContentLength = int64(len(body))
	query, err := verify(r, app, now)
	if err != nil {
		return err
	}
	return verifyBody(query, body)
}
