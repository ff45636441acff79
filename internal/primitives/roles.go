package primitives

import "net/http"

// rolesAnswer is the answer to GET roles.
type rolesAnswer struct {
	Roles          []string        `json:"roles"` // empty for all
	ServesRequests bool            `json:"serves_requests"`
	Works          map[string]bool `json:"works"` // by the keys asked for
}

// maxRoleKeys is how many keys of background work one request asks for.
const maxRoleKeys = 100

// getRoles answers GET roles?key= with what this node does, so that an application beside it does
// its share.
func (s *Server) getRoles(r *request) (answer, error) {
	keys := r.URL.Query()["key"]
	if len(keys) > maxRoleKeys {
		return answer{}, invalid("key may come %d times", maxRoleKeys)
	}
	result := rolesAnswer{
		Roles: s.options.Roles.Names(), ServesRequests: s.options.Roles.ServesRequests(), Works: map[string]bool{},
	}
	if result.Roles == nil {
		result.Roles = []string{}
	}
	for _, key := range keys {
		result.Works[key] = s.options.Roles.Works(key)
	}
	return answer{status: http.StatusOK, body: result}, nil
}
