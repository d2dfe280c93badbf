package reconcile

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

var update = flag.Bool("update", false, "write what testdata should say")

// TestGolden plays testdata/*.txt: sections "-- apply --" with objects (see objects), each followed by a
// section "-- want --" with the entries written, the conflicts, and the dump after it.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in testdata: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { golden(t, file) })
	}
}

func golden(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	f, w := newFake(), newWorld()
	r := newReconciler(f)
	mustApply(t, r, w.view, nil)
	sections := strings.Split(string(text), "-- apply --\n")
	got := sections[0]
	for _, section := range sections[1:] {
		input, _, _ := strings.Cut(section, "-- want --\n")
		clear(f.writes)
		mustApply(t, r, nil, objects(t, input))
		wrote := "wrote"
		for _, table := range []string{"frontends", "services", "pools", "slots", "backends", "members", "ranges"} {
			if n := f.writes[table]; n > 0 {
				wrote += fmt.Sprintf(" %s=%d", table, n)
			}
		}
		wrote += "\n"
		for _, c := range r.Conflicts() {
			wrote += fmt.Sprintf("conflict %s/%s %s beats %s\n", c.Address, c.Protocol, c.Winner, c.Losers)
		}
		mustCollect(t, r)
		got += "-- apply --\n" + input + "-- want --\n" + wrote + mustDump(t, f) + "\n"
		f.check(t)
	}
	got = strings.TrimSuffix(got, "\n")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	diff(t, string(text), got)
}

// objects parses lines, where each service starts a change:
//
//	service ns/name ip=10.96.0.1,fd00::1 external=… lb=… ranges=10.0.0.0/8 created=1 affinity=3h internal-local external-local
//	port name 80/tcp node=30080 target=8080
//	endpoint 10.244.1.1 node=here unready terminating
//	delete ns/name
func objects(t *testing.T, text string) []Change {
	t.Helper()
	var changes []Change
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if err := object(&changes, words); err != nil {
			t.Fatalf("%s: %v", strings.TrimSpace(line), err)
		}
	}
	return changes
}

func object(changes *[]Change, words []string) (err error) {
	defer func() {
		if e := recover(); e != nil {
			err = fmt.Errorf("%v", e)
		}
	}()
	options := make(map[string]string)
	for _, word := range words[2:] {
		key, value, _ := strings.Cut(word, "=")
		options[key] = value
	}
	has := func(key string) bool { _, ok := options[key]; return ok }
	addrs := func(key string) []netip.Addr {
		var list []netip.Addr
		for _, a := range strings.FieldsFunc(options[key], func(r rune) bool { return r == ',' }) {
			list = append(list, netip.MustParseAddr(a))
		}
		return list
	}
	number := func(s string) int {
		n, err := strconv.Atoi("0" + s)
		if err != nil {
			panic(err)
		}
		return n
	}
	switch words[0] {
	case "service", "delete":
		namespace, name, _ := strings.Cut(words[1], "/")
		c := Change{Name: endpoints.ObjectName{Namespace: namespace, Name: name}}
		if words[0] == "service" {
			c.Service = &endpoints.Service{
				Name: c.Name, Created: time.Unix(int64(number(options["created"])), 0),
				ClusterIPs: addrs("ip"), ExternalIPs: addrs("external"), LoadBalancerIPs: addrs("lb"),
				InternalLocal: has("internal-local"), ExternalLocal: has("external-local"),
			}
			for p := range strings.FieldsFuncSeq(options["ranges"], func(r rune) bool { return r == ',' }) {
				c.Service.SourceRanges = append(c.Service.SourceRanges, netip.MustParsePrefix(p))
			}
			if has("affinity") {
				if c.Service.Affinity, err = time.ParseDuration(options["affinity"]); err != nil {
					return err
				}
			}
			for _, ipv6 := range []bool{false, true} {
				c.Slices = append(c.Slices, &endpoints.Slice{Name: c.Name, Service: c.Name, IPv6: ipv6})
			}
		}
		*changes = append(*changes, c)
	case "port":
		c := &(*changes)[len(*changes)-1]
		port, protocol, _ := strings.Cut(words[2], "/")
		p := endpoints.Port{Name: strings.Trim(words[1], `"`), Protocol: endpoints.TCP,
			Port: uint16(number(port)), NodePort: uint16(number(options["node"]))}
		if protocol == "udp" {
			p.Protocol = endpoints.UDP
		}
		c.Service.Ports = append(c.Service.Ports, p)
		for _, s := range c.Slices {
			s.Ports = append(s.Ports, endpoints.SlicePort{Name: p.Name, Protocol: p.Protocol, Port: uint16(number(options["target"]))})
		}
	case "endpoint":
		e := endpoints.Endpoint{Addr: netip.MustParseAddr(words[1]), Node: options["node"], Terminating: has("terminating")}
		e.Ready = !has("unready") && !e.Terminating
		e.Serving = !has("unready")
		i := slices.Index([]bool{false, true}, e.Addr.Is6())
		s := (*changes)[len(*changes)-1].Slices[i]
		s.Endpoints = append(s.Endpoints, e)
	default:
		return fmt.Errorf("unknown object %q", words[0])
	}
	return nil
}
