package e2e

import (
	"strings"
	"testing"
)

func TestVersionOfKong(t *testing.T) {
	t.Parallel()
	for output, want := range map[string]string{
		"3.8.0":                         "",
		"3.9.3\n":                       "",
		"Kong Enterprise 3.11.0.2":      "",
		"3.7.1":                         "Kong 3.7.1, allowed is 3.8 or later and below 4",
		"2.8.5":                         "allowed is 3.8",
		"4.0.0":                         "below 4",
		"nginx version: openresty/1.25": "no version of Kong",
		"":                              "no version of Kong",
	} {
		err := checkVersion(output)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", output, err, want)
		}
	}
}

func TestConfFile(t *testing.T) {
	t.Parallel()
	got := confFile(map[string]string{"KONG_PROXY_LISTEN": "127.0.0.1:8443 ssl", "KONG_SSL_CIPHERS": "a#b", "PATH": "/bin"}, "log_level = debug")
	if want := "proxy_listen = 127.0.0.1:8443 ssl\nssl_ciphers = a\\#b\nlog_level = debug\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
