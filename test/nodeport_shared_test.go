package test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/hand"
)

// Two frontends lead one client port to one backend, which would see the same connection twice: the
// second one's source port is changed, and both live side by side.
func TestNodePortShared(t *testing.T) {
	t.Parallel()
	const first, second = 30130, 30140
	w := newWorld(t, testenv.Options{})
	putPlaces(t, w, first)
	for place, b := range w.inPlaces() {
		number := second + int32(place)
		w.put(t, service(fmt.Sprintf("again-%d", place), uint8(number-30000), number), b)
	}
	w.start(t, nil)

	kinds := []struct {
		name    string
		kind    int
		reuse   int // lets two sockets have one port
		greeted bool
	}{{"TCP", unix.SOCK_STREAM, unix.SO_REUSEADDR, true}, {"UDP", unix.SOCK_DGRAM, unix.SO_REUSEPORT, false}}
	for place, backend := range w.inPlaces() {
		for i, addr := range w.a.Addrs() {
			for _, k := range kinds {
				t.Run(fmt.Sprintf("%s/IPv%d/%s", placeNames[place], 4+2*i, k.name), func(t *testing.T) {
					local := netip.AddrPortFrom(w.client.Addrs()[i], 0)
					var conns [2]*hand.Socket
					var sources [2]string // that the backend saw
					for j, port := range []uint16{first, second} {
						s := openSocket(t, w.client.Host, addr, k.kind, 0)
						conns[j] = s
						if err := s.SetOption(t.Context(), unix.SOL_SOCKET, k.reuse, 1); err != nil {
							t.Fatal(err)
						}
						if err := s.Bind(t.Context(), local); err != nil {
							t.Fatal(err)
						}
						var err error
						if local, err = s.GetSockName(t.Context()); err != nil {
							t.Fatal(err)
						}
						if err := s.Connect(t.Context(), netip.AddrPortFrom(addr, port+uint16(place))); err != nil {
							t.Fatal(err)
						}
						if k.greeted {
							if _, err := s.Recv(t.Context()); err != nil {
								t.Fatal(err)
							}
						}
						sources[j] = checkLine(t, s, backend.Host.Name, "hello")
					}
					if sources[0] == sources[1] {
						t.Errorf("the backend saw both come from %s", sources[0])
					}
					if own := local.String(); (place == podHere || place == thisNode) && sources[0] != own {
						t.Errorf("the backend saw the first come from %s, want the client's own %s", sources[0], own)
					}
					for range 3 {
						for j, s := range conns {
							if source := checkLine(t, s, backend.Host.Name, fmt.Sprintf("on-%d", j)); source != sources[j] {
								t.Errorf("connection %d comes from %s, before from %s", j, source, sources[j])
							}
						}
					}
				})
			}
		}
	}
}

// checkLine lets the backend at the other end of a connection answer a line, and returns whom it saw.
func checkLine(t *testing.T, s *hand.Socket, backend, line string) (source string) {
	t.Helper()
	if err := s.Send(t.Context(), line+"\n"); err != nil {
		t.Fatalf("send %q: %v", line, err)
	}
	answer, err := s.Recv(t.Context())
	words := strings.Fields(answer)
	if err != nil || len(words) != 3 || words[0] != backend || words[2] != line {
		t.Fatalf("answer to %q is %q, %v, want %s", line, answer, err, backend)
	}
	return words[1]
}
