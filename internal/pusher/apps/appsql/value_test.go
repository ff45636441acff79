package appsql

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/pusher/apps/appstest"
)

func TestColumnHolds(t *testing.T) {
	tiny, small := integer(column{sqlType: "tinyint"}, -128, 127), integer(column{sqlType: "int unsigned"}, 0, math.MaxUint32)
	short, blob := column{shape: shapeText, length: 3}, column{shape: shapeText, length: 3, bytes: true}
	decimal, boolean := column{shape: shapeDecimal, sqlType: "numeric"}, column{shape: shapeBoolean, sqlType: "boolean"}
	jsonb, other := column{shape: shapeJSON, sqlType: "json"}, column{shape: shapeOther, sqlType: "point"}
	texts := func(s string) value { return value{kind: textual, text: s} }
	for _, test := range []struct {
		column column
		value  value
		want   any // or a part of the error
	}{
		{tiny, value{kind: amount, number: 127}, int64(127)},
		{tiny, value{kind: amount, number: 128}, errors.New("holds -128 to 127, not 128")},
		{small, value{kind: amount, number: -1}, errors.New("holds 0 to")},
		{small, value{kind: flag, number: 1}, int64(1)},
		{small, value{kind: size, number: 4096}, int64(4)},
		{small, value{kind: size, number: 4097}, errors.New("whole KiB")},
		{small, texts("17"), "17"},
		{small, texts("x"), errors.New("holds no text")},
		{decimal, value{kind: size, number: 1536}, "1.5"},
		{decimal, value{kind: amount, number: 7}, "7"},
		{short, texts("éöü"), "éöü"},
		{short, texts("éöüa"), errors.New("holds 3 characters, not 4")},
		{blob, texts("éö"), errors.New("holds 3 bytes, not 4")},
		{short, texts("a\x00"), errors.New("UTF-8 without zero bytes")},
		{short, texts("a\xff"), errors.New("UTF-8 without zero bytes")},
		{short, value{kind: flag, number: 1}, "1"},
		{short, value{kind: amount, number: 5000}, errors.New("holds 3 characters")},
		{boolean, value{kind: flag}, "false"},
		{boolean, value{kind: amount, number: 1}, errors.New("holds no number")},
		{jsonb, value{kind: document, text: "[]"}, "[]"},
		{jsonb, texts("x"), errors.New("holds no text")},
		{other, texts("x"), errors.New("does not write")},
		{column{shape: shapeText}, texts(strings.Repeat("x", 1<<20)), strings.Repeat("x", 1<<20)},
	} {
		got, err := test.column.holds(test.value)
		if want, isError := test.want.(error); isError {
			if err == nil || !strings.Contains(err.Error(), want.Error()) {
				t.Errorf("%+v of %+v: %v, %v, want %v", test.column, test.value, got, err, want)
			}
		} else if err != nil || got != test.want {
			t.Errorf("%+v of %+v: %v, %v, want %v", test.column, test.value, got, err, test.want)
		}
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"1": "true", "0": "false", "t": "true", "FALSE": "false", " yes ": "true", "off": "false", "\x01": "true", "\x00": "false",
		"2": "true", "-1": "true", "": "is not true or false", "maybe": "is not true or false",
	} {
		got, err := parseFlag(text)
		if answer := fmt.Sprint(got); err == nil && answer != want || err != nil && err.Error() != want {
			t.Errorf("flag %q is %v, %v, want %s", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"5": "5", " 5.00 ": "5", "-1": "-1", "1e3": "1000", "0.25": "0.25", "x": "is not a number", "": "is not a number",
		"NaN": "is not a number", "1e300": "is too large", "1e999": "is too large", "-Inf": "is too large",
	} {
		got, err := parseNumber(text)
		if answer := fmt.Sprint(got); err == nil && answer != want || err != nil && err.Error() != want {
			t.Errorf("number %q is %v, %v, want %s", text, got, err, want)
		}
	}
}

func TestShapes(t *testing.T) {
	for text, want := range map[string]column{
		"tinyint(1)": {shape: shapeInteger, low: -128, high: 127}, "tinyint(3) unsigned": {shape: shapeInteger, high: 255},
		"mediumint(8)":     {shape: shapeInteger, low: -8388608, high: 8388607},
		"int(10) unsigned": {shape: shapeInteger, high: math.MaxUint32}, "bit(1)": {shape: shapeInteger, high: 1},
		"bigint(20) unsigned": {shape: shapeInteger, high: math.MaxInt64},
		"double":              {shape: shapeDecimal}, "varchar(20)": {shape: shapeText, length: 20},
		"mediumtext": {shape: shapeText, length: 20, bytes: true}, "json": {shape: shapeJSON}, "blob": {shape: shapeOther},
	} {
		dataType, _, _ := strings.Cut(text, "(")
		want.sqlType = text
		if got := mysqlShape(column{sqlType: text}, dataType, 20); got != want {
			t.Errorf("%s is %+v, want %+v", text, got, want)
		}
	}
	for text, want := range map[string]column{
		"smallint": {shape: shapeInteger, low: -32768, high: 32767}, "integer": {shape: shapeInteger, low: math.MinInt32, high: math.MaxInt32},
		"numeric": {shape: shapeDecimal}, "boolean": {shape: shapeBoolean}, "jsonb": {shape: shapeJSON}, "uuid": {shape: shapeOther},
		"character varying": {shape: shapeText, length: 20},
	} {
		want.sqlType = text
		if got := postgresShape(column{sqlType: text}, 24); got != want {
			t.Errorf("%s is %+v, want %+v", text, got, want)
		}
	}
	if got := postgresShape(column{sqlType: "text"}, -1); got.length != 0 {
		t.Errorf("a text has the length %d", got.length)
	}
}

// Every field of an app has a column, so that one that is added later is not forgotten.
func TestEveryFieldHasAColumn(t *testing.T) {
	full := appstest.App("1")
	empty := &apps.App{}
	for _, f := range fields {
		v := f.get(&full)
		if !v.set() {
			t.Errorf("%s of a full app is not set", f.name)
		}
		text := v.text
		switch v.kind {
		case flag, amount:
			text = fmt.Sprint(v.number)
		case size:
			text = fmt.Sprint(v.number >> 10)
		}
		if err := f.set(empty, text); err != nil || f.get(empty) != v {
			t.Errorf("%s became %+v, %v, want %+v", f.name, f.get(empty), err, v)
		}
	}
	if !reflect.DeepEqual(*empty, full) {
		t.Errorf("fields are missing: the app is\n%+v, want\n%+v", *empty, full)
	}
}

func TestDecodeWebhooks(t *testing.T) {
	for text, want := range map[string]string{ // the addresses and events, then what is left out
		`null`: "", `[]`: "",
		`[{"url": "http://a"}]`: "http://a []",
		`[{"url": "http://a", "event_types": []}, {"url": "http://b", "event_types": ["cache_miss"]}]`: "http://b [cache_miss] webhooks[0].event_types",
		`[{"url": "http://a", "event_types": ["push_sent"]}]`:                                          "webhooks[0].event_types",
		`[{"url": null, "lambda": {"function_name": "f"}}]`:                                            "webhooks[0].lambda webhooks[0].url",
		`[{"url": "http://a", "filter": {"channel_namespace": "x"}}]`:                                  "webhooks[0].filter.channel_namespace",
		`[{"url": "http://a", "filter": {"channel_namespaces": null, "channel_pattern": "x"}}]`:        "http://a []",
		`[{"url": "http://a", "retry": {"max_attempts": 3}, "request_timeout_ms": null}]`:              "http://a [] webhooks[0].retry",
		`{}`: "!", `[1]`: "!", `[null]`: "!", `[{"url": 1}]`: "!", `[{"headers": {"a": 1}}]`: "!", `[`: "!",
	} {
		hooks, left, err := decodeWebhooks(text)
		var got []string
		for _, hook := range hooks {
			got = append(got, hook.URL, fmt.Sprint(hook.EventTypes))
		}
		answer := strings.Join(append(got, left...), " ")
		if err != nil {
			answer = "!"
		}
		if answer != want {
			t.Errorf("%s: %q, want %q", text, answer, want)
		}
	}
}

// FuzzRow reads a row with any texts: it is an app that is valid, or an error that says why.
func FuzzRow(f *testing.F) {
	f.Add("a", "5", "true", `[{"url": "http://a", "event_types": ["cache_miss"]}]`, `["a"]`, "")
	f.Add("a", "-1", "\x01", `[]`, `null`, `{"limits": {"max_connections": "7"}, "webhooks": []}`)
	f.Add("a/b", "1e9", "", `[{}]`, `[null]`, `{"channels": null, "features": {"enable_client_messages": 1}}`)
	f.Fuzz(func(t *testing.T, key, number, truth, webhooks, origins, policy string) {
		id := "1"
		l := &layout{held: map[*field]column{}, policy: &column{name: "policy"}}
		r := row{layout: l, texts: map[*field]*string{idField: &id, fieldNamed("secret"): &id, keyField: &key}, policy: policy}
		for _, f := range fields {
			l.held[f] = column{name: f.columns[0]}
			switch {
			case f.kind == amount || f.kind == size:
				r.texts[f] = &number
			case f.kind == flag:
				r.texts[f] = &truth
			case f == webhooksField:
				r.texts[f] = &webhooks
			case f.kind == document:
				r.texts[f] = &origins
			}
		}
		app, _, err := r.app()
		if err != nil {
			if !errors.Is(err, apps.ErrUnreadable) {
				t.Errorf("error is %v", err)
			}
			return
		}
		if err := app.Validate(); err != nil || app.Limits.MaxConnections > math.MaxInt32 {
			t.Errorf("%+v: %v", app, err)
		}
		again, left, err := decodeWebhooks(encodeWebhooks(app.Webhooks) + strings.Repeat("null", 1-min(1, len(app.Webhooks))))
		if err != nil || len(left) > 0 || len(again) != len(app.Webhooks) {
			t.Errorf("webhooks became %+v, %v, %v", again, left, err)
		}
		if policy == "" || !json.Valid([]byte(policy)) {
			return
		}
		if _, err := r.changedPolicy(app, fields); err != nil {
			t.Errorf("policy %q: %v", policy, err)
		}
	})
}
