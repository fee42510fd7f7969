package e2e

// Every system has a part of the loopback network to itself, so that the ports
// stay those of Terraform and the chart, and several systems run side by side.

import (
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"testing"
)

// The subnets that Terraform is told, and what plays them: a CIDR of the plan is
// replaced by an address of this machine wherever it stands.
const (
	albSubnet, otherALBSubnet   = "10.0.1.0/24", "10.0.2.0/24"
	taskSubnet, otherTaskSubnet = "10.0.11.0/24", "10.0.12.0/24"
	// A socket that nobody has bound comes from here.
	unbound = "127.0.0.1"
)

// network is 127.A.B.0/24.
type network string // "127.A.B."

func (n network) task() string     { return string(n) + "1" } // node and attester
func (n network) pod() string      { return string(n) + "2" } // Kong and the plugin
func (n network) upstream() string { return string(n) + "3" }
func (n network) status() string   { return string(n) + "8" } // 127.0.0.8 in the task
func (n network) alb() string      { return string(n) + "10" }
func (n network) stranger() string { return string(n) + "66" }

// newNetwork takes a network that no other system on this machine has.
func newNetwork(t testing.TB) network {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("LEFT OUT: the suite needs Linux, where all of 127.0.0.0/8 is there")
	}
	var err error
	for range 20 {
		n := network(fmt.Sprintf("127.%d.%d.", 64+rand.IntN(128), 1+rand.IntN(254)))
		var mark net.Listener
		if mark, err = net.Listen("tcp", string(n)+"250:9099"); err == nil {
			t.Cleanup(func() { mark.Close() })
			return n
		}
	}
	t.Fatalf("no loopback network is free: %v", err)
	return ""
}

// inTask leads the addresses of a text of the task's to this system.
func (n network) inTask() *strings.Replacer {
	return strings.NewReplacer(
		"127.0.0.1:", n.task()+":", "127.0.0.8:", n.status()+":",
		albSubnet, n.alb()+"/32", otherALBSubnet, string(n)+"11/32",
	)
}

// inPod leads the addresses of a text of the pod's to this system.
func (n network) inPod() *strings.Replacer {
	return strings.NewReplacer(
		"127.0.0.1:", n.pod()+":", "0.0.0.0:", n.pod()+":",
		taskSubnet, unbound+"/32", otherTaskSubnet, string(n)+"12/32",
		appURL, "http://"+n.upstream()+":"+appPort,
	)
}
