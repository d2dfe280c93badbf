package node

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

const (
	reservedPorts  = "/proc/sys/net/ipv4/ip_local_reserved_ports"
	ephemeralPorts = "/proc/sys/net/ipv4/ip_local_port_range"
)

// portRange is first to last, both included.
type portRange struct{ first, last uint16 }

func (r portRange) String() string {
	if r.first == r.last {
		return strconv.Itoa(int(r.first))
	}
	return fmt.Sprintf("%d-%d", r.first, r.last)
}

// ReservePorts keeps the ports first to last from being given to sockets of this network namespace: it
// adds them to ip_local_reserved_ports and leaves what others reserved there. Writes only if one of them
// is missing. Ports that overlap ip_local_port_range are an error: there sockets may have them already.
// Undone by [ReleasePorts].
func ReservePorts(first, last uint16) error {
	ours := portRange{first, last}
	text, err := readSysctl(ephemeralPorts)
	if err != nil {
		return fmt.Errorf("reserve ports %s: %w", ours, err)
	}
	ephemeral, err := parsePortRange(strings.Join(strings.Fields(text), "-"))
	if err != nil {
		return fmt.Errorf("parse %s: %w", ephemeralPorts, err)
	}
	if first <= ephemeral.last && ephemeral.first <= last {
		return fmt.Errorf("reserve ports %s: overlap net.ipv4.ip_local_port_range %s", ours, ephemeral)
	}
	return editReserved("reserve", ours, func(r []portRange) []portRange { return merge(append(r, ours)) })
}

// ReleasePorts removes exactly the ports first to last from ip_local_reserved_ports. The kernel keeps one
// set for all: ports that somebody else had reserved in that range are released with ours.
func ReleasePorts(first, last uint16) error {
	ours := portRange{first, last}
	return editReserved("release", ours, func(r []portRange) []portRange { return subtract(r, ours) })
}

func editReserved(verb string, ours portRange, edit func([]portRange) []portRange) error {
	if ours.first == 0 || ours.first > ours.last {
		return fmt.Errorf("%s ports %s: not a range of ports", verb, ours)
	}
	text, err := readSysctl(reservedPorts)
	if err != nil {
		return fmt.Errorf("%s ports %s: %w", verb, ours, err)
	}
	have, err := parsePortRanges(text)
	if err != nil {
		return fmt.Errorf("parse %s: %w", reservedPorts, err)
	}
	want := edit(slices.Clone(have))
	if slices.Equal(have, want) {
		return nil
	}
	words := make([]string, len(want))
	for i, r := range want {
		words[i] = r.String()
	}
	if err := os.WriteFile(reservedPorts, []byte(strings.Join(words, ",")+"\n"), 0); err != nil {
		return fmt.Errorf("%s ports %s: %w", verb, ours, err)
	}
	return nil
}

// readSysctl reads in one call: this kind of file gives what fits the buffer, and nothing to a second read.
// The longest there can be is every other port, 170 kB.
func readSysctl(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	buf := make([]byte, 256<<10)
	n, err := f.Read(buf)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return string(buf[:n]), nil
}

// parsePortRanges reads what the kernel prints: ascending, disjoint.
func parsePortRanges(text string) ([]portRange, error) {
	var ranges []portRange
	for word := range strings.SplitSeq(strings.TrimSpace(text), ",") {
		if word == "" {
			continue
		}
		r, err := parsePortRange(word)
		if err != nil {
			return nil, err
		}
		ranges = append(ranges, r)
	}
	return ranges, nil
}

func parsePortRange(word string) (portRange, error) {
	low, high, ok := strings.Cut(word, "-")
	if !ok {
		high = low
	}
	first, err1 := strconv.ParseUint(low, 10, 16)
	last, err2 := strconv.ParseUint(high, 10, 16)
	if err := cmp.Or(err1, err2); err != nil {
		return portRange{}, err
	}
	return portRange{uint16(first), uint16(last)}, nil
}

// merge returns the same ports as the kernel would print them.
func merge(ranges []portRange) []portRange {
	slices.SortFunc(ranges, func(a, b portRange) int { return cmp.Compare(a.first, b.first) })
	var merged []portRange
	for _, r := range ranges {
		if n := len(merged); n > 0 && int(r.first) <= int(merged[n-1].last)+1 {
			merged[n-1].last = max(merged[n-1].last, r.last)
			continue
		}
		merged = append(merged, r)
	}
	return merged
}

// subtract returns ranges without the ports of cut.
func subtract(ranges []portRange, cut portRange) []portRange {
	var left []portRange
	for _, r := range ranges {
		if r.last < cut.first || cut.last < r.first {
			left = append(left, r)
			continue
		}
		if r.first < cut.first {
			left = append(left, portRange{r.first, cut.first - 1})
		}
		if cut.last < r.last {
			left = append(left, portRange{cut.last + 1, r.last})
		}
	}
	return left
}
