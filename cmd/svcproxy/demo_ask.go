package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// rounds is how often a request is made: often enough that each of two backends is chosen (all but 1 of
// 2 billion times).
const rounds = 32

// soon is what a refusal may take: less than a client would wait before it sent its SYN again.
const soon = 500 * time.Millisecond

// outcome is what came of a request made several times.
type outcome struct {
	answers map[exchange]int
	clients map[string]netip.Addr // by name: as the backends saw them
	peer    string                // whom a client believed to talk to, if not the frontend
	err     error
	took    time.Duration // until err
}

// show shows what came of a request: a row for each client that was seen.
func (d *demo) show(r request, o outcome) {
	problem := o.problem(r.want)
	asks := r.network + " " + r.frontend
	switch {
	case o.err != nil && errors.Is(o.err, unix.ECONNREFUSED):
		d.out.row(problem, r.from, asks, fmt.Sprintf("refused after %.1f ms", o.took.Seconds()*1000))
		return
	case o.err != nil:
		d.out.row(problem, r.from, asks, "nobody")
		return
	}
	var clients []string
	by := map[string][]string{}
	for _, a := range sorted(o.answers) {
		if by[a.client] == nil {
			clients = append(clients, a.client)
		}
		by[a.client] = append(by[a.client], fmt.Sprintf("%s x%d", a.backend, o.answers[a]))
	}
	for i, c := range clients {
		verdict := ""
		if i == len(clients)-1 {
			verdict = problem
		}
		d.out.row(verdict, r.from, asks, strings.Join(by[c], ", "), fmt.Sprintf("%s %s", c, o.clients[c]))
	}
}

// ask makes a request, several times unless it fails.
func (d *demo) ask(ctx context.Context, r request) outcome {
	o := outcome{answers: map[exchange]int{}, clients: map[string]netip.Addr{}}
	for range rounds {
		began := time.Now()
		reply, err := d.hosts[r.from].Request(ctx, r.network, r.frontend)
		if err != nil {
			o.err, o.took = err, time.Since(began)
			return o
		}
		client := d.name(reply.Source.Addr())
		o.answers[exchange{reply.Backend, client}]++
		o.clients[client] = reply.Source.Addr()
		if reply.Peer.String() != r.frontend {
			o.peer = reply.Peer.String()
		}
	}
	return o
}

// name returns whose address it is.
func (d *demo) name(addr netip.Addr) string {
	for _, h := range d.Hosts() {
		if slices.Contains(h.Addrs(), addr) {
			return h.Name
		}
	}
	return "unknown"
}

// problem says how the outcome is not what should have come; "" if it is.
func (o outcome) problem(want []exchange) string {
	refused := errors.Is(o.err, unix.ECONNREFUSED)
	switch {
	case len(want) == 0 && len(o.answers) > 0:
		return "should have been refused"
	case len(want) == 0 && refused && o.took > soon:
		return fmt.Sprintf("should have been refused at once, not after %.1f s", o.took.Seconds())
	case len(want) == 0 && refused:
		return ""
	case len(want) == 0:
		return fmt.Sprintf("should have been refused: %v", o.err)
	case o.err != nil:
		return o.err.Error()
	}
	for _, a := range want {
		if o.answers[a] == 0 {
			return fmt.Sprintf("%s should have answered, and have seen %s", a.backend, a.client)
		}
	}
	for _, a := range sorted(o.answers) {
		if !slices.Contains(want, a) {
			return fmt.Sprintf("%s should not have answered with %s as its client", a.backend, a.client)
		}
	}
	if o.peer != "" {
		return fmt.Sprintf("the client believes to talk to %s", o.peer)
	}
	return ""
}

func sorted(answers map[exchange]int) []exchange {
	var list []exchange
	for a := range answers {
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b exchange) int { return strings.Compare(a.backend+" "+a.client, b.backend+" "+b.client) })
	return list
}
