package primitives

import (
	"net/http"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

const (
	// maxTTL bounds for how long a value can be kept with an end.
	maxTTL = 365 * 24 * time.Hour
	// maxMany is how many values one request reads.
	maxMany = 100
)

// Scopes of the cache.
const (
	areaCache   = "cache"
	actionRead  = "read"
	actionWrite = "write"
)

func (s *Server) cachePaths() map[string]methods {
	read := endpoint{area: areaCache, action: actionRead, named: "key", serve: s.getValue}
	write := func(serve func(*request) (answer, error)) endpoint {
		return endpoint{area: areaCache, action: actionWrite, named: "key", serve: serve}
	}
	return map[string]methods{
		"cache":            {http.MethodPost: {serve: s.getValues}},
		"cache/{key}":      {http.MethodGet: read, http.MethodPut: write(s.putValue), http.MethodDelete: write(s.deleteValue)},
		"cache/{key}/swap": {http.MethodPost: write(s.swapValue)},
		"cache/{key}/add":  {http.MethodPost: write(s.addToValue)},
	}
}

// cacheKey is where a value of a namespace is kept.
func cacheKey(r *request, name string) (string, error) {
	return "c:" + r.key.Namespace + ":" + name, checkName("a cache key", name)
}

// cached returns the cache and the place of the value that the path names.
func (s *Server) cached(r *request) (fabric.Cache, string, error) {
	key, err := cacheKey(r, r.PathValue("key"))
	if err != nil {
		return nil, "", err
	}
	cache, err := s.cache.get(r.Context())
	return cache, key, err
}

// getValue answers GET cache/{key} with the value as it is.
func (s *Server) getValue(r *request) (answer, error) {
	cache, key, err := s.cached(r)
	if err != nil {
		return answer{}, err
	}
	value, err := cache.Get(r.Context(), key)
	return answer{status: http.StatusOK, body: notNil(value)}, err
}

// putValue answers PUT cache/{key}?ttl_ms= with the value as its body.
func (s *Server) putValue(r *request) (answer, error) {
	cache, key, err := s.cached(r)
	if err != nil {
		return answer{}, err
	}
	ttl, err := r.number("ttl_ms", 0, 0, maxTTL.Milliseconds())
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, cache.Set(r.Context(), key, r.body, milliseconds(ttl))
}

// deleteValue answers DELETE cache/{key}. There may be none.
func (s *Server) deleteValue(r *request) (answer, error) {
	cache, key, err := s.cached(r)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, cache.Delete(r.Context(), key)
}

// valueForms is a value in JSON.
type valueForms struct {
	Value       *string `json:"value,omitempty"`
	ValueBase64 *[]byte `json:"value_base64,omitempty"`
}

// manyRequest is the body of POST cache.
type manyRequest struct {
	Keys []string `json:"keys"`
}

// manyAnswer is the answer to it.
type manyAnswer struct {
	Values map[string]valueForms `json:"values"` // of those keys that have one
}

// getValues answers POST cache with many values.
func (s *Server) getValues(r *request) (answer, error) {
	body, err := decode[manyRequest](r)
	if err != nil {
		return answer{}, err
	}
	if n := len(body.Keys); n < 1 || n > maxMany {
		return answer{}, invalid("keys must be from 1 to %d", maxMany)
	}
	keys := make([]string, len(body.Keys))
	for i, name := range body.Keys {
		if err := r.allow(areaCache, actionRead, name); err != nil {
			return answer{}, err
		}
		if keys[i], err = cacheKey(r, name); err != nil {
			return answer{}, err
		}
	}
	cache, err := s.cache.get(r.Context())
	if err != nil {
		return answer{}, err
	}
	found, err := cache.GetMany(r.Context(), keys)
	if err != nil {
		return answer{}, err
	}
	result := manyAnswer{map[string]valueForms{}}
	for i, key := range keys {
		if value, ok := found[key]; ok {
			var f valueForms
			f.Value, f.ValueBase64 = forms(value)
			result.Values[body.Keys[i]] = f
		}
	}
	return answer{status: http.StatusOK, body: result}, nil
}

// swapRequest is the body of POST cache/{key}/swap. Without an old value there must be none.
type swapRequest struct {
	Old       *string `json:"old"`
	OldBase64 *[]byte `json:"old_base64"`
	valueForms
	TTL int64 `json:"ttl_ms"`
}

// swapValue answers POST cache/{key}/swap: it stores a value if the current one is the old one.
func (s *Server) swapValue(r *request) (answer, error) {
	body, err := decode[swapRequest](r)
	if err != nil {
		return answer{}, err
	}
	var old []byte
	if body.Old != nil || body.OldBase64 != nil {
		if old, err = pick("old", body.Old, body.OldBase64); err != nil {
			return answer{}, err
		}
	}
	value, err := pick("value", body.Value, body.ValueBase64)
	if err == nil {
		err = between("ttl_ms", body.TTL, 0, maxTTL.Milliseconds())
	}
	if err != nil {
		return answer{}, err
	}
	cache, key, err := s.cached(r)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, cache.CompareAndSwap(r.Context(), key, old, value, milliseconds(body.TTL))
}

// addRequest is the body of POST cache/{key}/add.
type addRequest struct {
	Delta *int64 `json:"delta"` // 1 when it is left out
	TTL   int64  `json:"ttl_ms"`
}

// sumAnswer is the answer to it.
type sumAnswer struct {
	Value int64 `json:"value"`
}

// addToValue answers POST cache/{key}/add with the sum.
func (s *Server) addToValue(r *request) (answer, error) {
	body, err := decode[addRequest](r)
	if err == nil {
		err = between("ttl_ms", body.TTL, 0, maxTTL.Milliseconds())
	}
	if err != nil {
		return answer{}, err
	}
	delta := int64(1)
	if body.Delta != nil {
		delta = *body.Delta
	}
	cache, key, err := s.cached(r)
	if err != nil {
		return answer{}, err
	}
	sum, err := cache.Add(r.Context(), key, delta, milliseconds(body.TTL))
	return answer{status: http.StatusOK, body: sumAnswer{sum}}, err
}
