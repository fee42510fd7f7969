package e2e

import "testing"

func TestBenign(t *testing.T) {
	t.Parallel()
	s := start(t, options{})
	c := s.dialEdge(t)
	a := exchange(t, c, s.get("/orders?x=1", "t1"))
	t.Log(a.status, a.body, s.upstream.find("t1"), s.decisions(t))
}
