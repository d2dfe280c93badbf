package test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/svcproxy/svcproxy/internal/testenv/hand"
)

// Silence can only be waited for: as long as a client would take to hear of a refusal. Its kernel looks at an error
// that comes while it holds the socket, as between namespaces, when it sends the SYN again (tcp_v4_err), after 1 s.
const (
	silence    = 1500 * time.Millisecond
	longEnough = 8 * time.Second // for three SYNs
)

// agree asks the kernel's programs and real sockets about each case, and compares both with the model. It returns how
// many cases came to what.
func (w *agreeWorld) agree(t *testing.T, cases []agreeCase) map[outcome]int {
	t.Helper()
	expected := make([]expectation, len(cases))
	counts := map[outcome]int{}
	for i, c := range cases {
		expected[i] = w.expect(c)
		counts[expected[i].outcome]++
	}
	disagree := func(i int, who string, err error) {
		e := expected[i]
		t.Errorf("%v: %s: %v\nthe model: %s %v; hops %s", cases[i], who, err, e.outcome, e.sees, hopText(w, e.hops))
	}
	remembered := map[string]netip.AddrPort{}
	for n, node := range w.nodes {
		errs := make([]error, len(cases))
		if err := node.Do(func() error {
			for i, c := range cases {
				for j, h := range expected[i].hops {
					if h.node == n && !h.noPacket && errs[i] == nil {
						errs[i] = node.kernel.agree(c, h, j > 0 || c.from.kind == outside, remembered)
					}
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for i, err := range errs {
			if err != nil {
				disagree(i, "programs", err)
			}
		}
	}
	errs := make([]error, len(cases))
	var asking sync.WaitGroup
	for _, client := range w.clients {
		var mine []int
		var questions []hand.Question
		for i, c := range cases {
			if c.from != client {
				continue
			}
			timeout := longEnough
			if expected[i].outcome == isDropped {
				timeout = silence
			}
			for range 1 + min(1, len(expected[i].sees)/2) {
				mine = append(mine, i)
				questions = append(questions, hand.Question{Network: c.network, Addr: c.to, Timeout: timeout})
			}
		}
		asking.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			findings, err := client.Survey(ctx, questions)
			for j, i := range mine {
				if err != nil {
					errs[i] = err
				} else if errs[i] == nil {
					errs[i] = checkFinding(cases[i], expected[i], findings[j])
				}
			}
		})
	}
	asking.Wait()
	for i, err := range errs {
		if err != nil {
			disagree(i, "sockets", err)
		}
	}
	if t.Failed() {
		for _, n := range w.nodes {
			t.Logf("flows of %s:\n%s", n.Name, command(t, n.Node, "flows", "-o", "wide"))
		}
	}
	return counts
}

func checkFinding(c agreeCase, e expectation, f hand.Finding) error {
	got, err := isServed, error(nil)
	if f.Err != nil {
		err = f.Err
		switch {
		case errors.Is(err, unix.ECONNREFUSED):
			got = isRefused
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, unix.ENOBUFS): // on this very host, at the link out of it
			got = isDropped
		case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH):
			got = isUnreachable
		default:
			got = "failed"
		}
	}
	if got != e.outcome && !(e.late && got == isRefused) {
		return fmt.Errorf("%s by %q, error %v, want %s; dialled from %s", got, f.Reply.Backend, err, e.outcome, f.Reply.Local)
	}
	if got != isServed {
		return nil
	}
	want, ok := e.sees[f.Reply.Backend]
	switch {
	case !ok:
		return fmt.Errorf("answered by %s", f.Reply.Backend)
	case f.Reply.Source.Addr() != want:
		return fmt.Errorf("%s sees %s, want %s", f.Reply.Backend, f.Reply.Source, want)
	case f.Reply.Peer != c.to:
		return fmt.Errorf("the peer is shown as %s", f.Reply.Peer)
	}
	return nil
}

func hopText(w *agreeWorld, hops []hop) (text string) {
	for _, h := range hops {
		text += fmt.Sprintf("[%s %s %s %v]", w.nodes[h.node].Name, h.origin, h.outcome, h.backends)
	}
	return text
}
