package protocol

import (
	"crypto/md5"
	"encoding/hex"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// SignatureParameter is the query parameter that carries a REST request's signature.
const SignatureParameter = "auth_signature"

// BodyMD5 is the value of the body_md5 parameter: the hex MD5 of the body.
func BodyMD5(body []byte) string {
	sum := md5.Sum(body)
	return hex.EncodeToString(sum[:])
}

// RequestText is what is signed of a REST request: method, path and the sorted, un-escaped
// query without the signature, with parameter names in lower case and the values of an
// array joined by commas.
func RequestText(method, path string, query url.Values) string {
	return method + "\n" + path + "\n" + canonicalQuery(query)
}

func canonicalQuery(query url.Values) string {
	type parameter struct{ name, value string }
	list := make([]parameter, 0, len(query))
	for name, values := range query {
		if name != SignatureParameter {
			list = append(list, parameter{strings.ToLower(name), strings.Join(values, ",")})
		}
	}
	slices.SortFunc(list, func(a, b parameter) int { return strings.Compare(a.name, b.name) })
	var text strings.Builder
	for i, p := range list {
		if i > 0 {
			text.WriteByte('&')
		}
		text.WriteString(p.name + "=" + p.value)
	}
	return text.String()
}

// SignRequest adds to query what authenticates a REST request of a backend at the Unix
// time given, the signature included.
func SignRequest(key, secret, method, path string, query url.Values, body []byte, unixSeconds int64) {
	query.Set("auth_key", key)
	query.Set("auth_timestamp", strconv.FormatInt(unixSeconds, 10))
	query.Set("auth_version", "1.0")
	if len(body) > 0 {
		query.Set("body_md5", BodyMD5(body))
	}
	query.Set(SignatureParameter, Sign(secret, RequestText(method, path, query)))
}
