package kongfile

// This file reports services and targets that lead to Kong's own admin API: a
// request that passes the gate could then reconfigure Kong. An address that
// could be read in two ways is reported too, since one of them may be that API.

import (
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// maxAddress bounds a URL or a host, in bytes; Kong's own names end at 253.
const maxAddress = 4096

// adminPorts are the ports of Kong's admin API and manager.
var adminPorts = []string{"8001", "8002", "8444", "8445"}

// localNames are the names that /etc/hosts of the usual systems gives the host.
var localNames = []string{
	"localhost", "localhost4", "localhost6", "localhost.localdomain", "localhost4.localdomain4",
	"localhost6.localdomain6", "ip6-localhost", "ip6-loopback",
}

var (
	// serviceURL is the one form of a URL that every parser reads alike: without
	// user information, and with a plain host that a slash or the end follows.
	serviceURL = regexp.MustCompile(`^(?s:(?i:https?|grpcs?|wss?|tcp|tls|udp|tls_passthrough)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[A-Za-z0-9_.+-]*)?(/.*)?)$`)
	hostName   = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
	// atonForm is what inet_aton of C libraries takes for an IPv4 address.
	atonForm = regexp.MustCompile(`^(?i:([0-9]+|0x[0-9a-f]*)(\.([0-9]+|0x[0-9a-f]*))*)$`)
)

func (c *check) services() {
	for _, s := range c.serviceSet {
		if !s.enabled {
			continue
		}
		if v := s.get("url"); v != nil {
			// It may hold a password, so no message repeats it.
			var m []string
			if v.kind == kindString && len(v.text) <= maxAddress {
				m = serviceURL.FindStringSubmatch(v.text)
			}
			if m == nil {
				c.add(Open, s.where, "has a url that is not scheme://host[:port][/path] with a plain host and no user information, so where it leads is not sure")
			} else if port, given := strings.CutPrefix(m[2], ":"); given {
				c.address(s.entity, m[1], port)
			} else {
				c.address(s.entity, m[1], "80")
			}
		}
		host, port := s.get("host"), "80"
		if v := s.get("port"); v != nil && v.kind != kindNumber {
			c.add(Open, s.where, "has the port %s (%s), which is no number in plain decimals, so where it leads is not sure", quote(v.text), v.kind)
			continue
		} else if v != nil {
			port = v.text
		}
		if host != nil && host.kind != kindString {
			c.add(Open, s.where, "host is %s where Kong expects a string, and would refuse the file", host.kind)
		} else if host != nil {
			c.address(s.entity, host.text, port)
		}
	}
	for _, t := range c.targetSet {
		// Kong's forms: name, name:port, IPv4, IPv4:port, IPv6, [IPv6]:port.
		host, port := t.str("target"), "8000"
		i := strings.LastIndexByte(host, ':')
		if i >= 0 && (i == strings.IndexByte(host, ':') || host[i-min(i, 1)] == ']') {
			host, port = host[:i], host[i+1:]
		}
		c.address(t.entity, host, port)
	}
}

// address reports a host and port that are the admin API's, or may be.
func (c *check) address(e entity, host, port string) {
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port != strconv.FormatUint(n, 10) {
		c.add(Open, e.where, "has the port %s, which is not plain decimals from 1 to 65535, so where it leads is not sure", quote(port))
		return
	}
	if len(host) > maxAddress {
		c.add(Open, e.where, "has a host of %d bytes, so where it leads is not sure", len(host))
		return
	}
	name := strings.ToLower(host)
	if strings.HasPrefix(name, "[") && strings.HasSuffix(name, "]") {
		name = name[1 : len(name)-1]
	}
	name = strings.TrimSuffix(name, ".")
	a, err := netip.ParseAddr(name)
	a = a.Unmap()
	switch {
	case err == nil && a.Zone() == "":
		if !a.IsLoopback() && !a.IsUnspecified() {
			return
		}
	case !hostName.MatchString(name) || atonForm.MatchString(name):
		c.add(Open, e.where, "has the host %s, which is neither a name nor an address in its usual form, so where it leads is not sure", quote(host))
		return
	case !slices.Contains(localNames, name) && !strings.HasSuffix(name, ".localhost"):
		return
	}
	if slices.Contains(adminPorts, port) {
		c.add(Open, e.where, "leads to Kong's own admin API on this host (%s)", net.JoinHostPort(strings.Trim(host, "[]"), port))
	}
}
