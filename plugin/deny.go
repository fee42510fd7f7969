package main

// The answer to a request that is refused: RFC 9457, without the reason, which
// would tell a stranger what to try next.

import (
	"encoding/json"
	"net/http"

	"github.com/Kong/go-pdk"
)

var denialHeader = map[string][]string{
	"Content-Type":  {"application/problem+json"},
	"Cache-Control": {"no-store"},
}

// denialBody is total; requestID is left out unless it is nginx's own form, so
// that nothing of the client's gets into the body.
func denialBody(status int, requestID string) []byte {
	title := http.StatusText(status)
	if title == "" {
		title = "Request refused"
	}
	if !isRequestID(requestID) {
		requestID = ""
	}
	body, err := json.Marshal(struct {
		Type      string `json:"type"`
		Title     string `json:"title"`
		Status    int    `json:"status"`
		Detail    string `json:"detail"`
		RequestID string `json:"request_id,omitempty"`
	}{"about:blank", title, status, "This request was not accepted by the gateway.", requestID})
	if err != nil {
		return nil // no value above can cause it; the status is the denial
	}
	return append(body, '\n')
}

// isRequestID reports whether s has the form of nginx's $request_id.
func isRequestID(s string) bool {
	if len(s) != 32 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// exit ends the request. Nothing may be asked of Kong afterwards, and nothing is
// awaited: see eventConn. That the connection is closed then is no reason for Kong
// to run the event again: it has its answer.
func exit(kong *pdk.PDK, status int, requestID string) {
	kong.Response.Exit(status, denialBody(status, requestID), denialHeader)
}
