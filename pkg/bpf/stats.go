package bpf

import (
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// statNames returns the label of each counter, in order: enum stat of bpf/types.h.
func statNames(spec *ebpf.CollectionSpec) ([]string, error) {
	var enum *btf.Enum
	if err := spec.Types.TypeByName("stat", &enum); err != nil {
		return nil, fmt.Errorf("find enum stat: %w", err)
	}
	var names []string
	for _, v := range enum.Values {
		if v.Name != "STAT_MAX" {
			names = append(names, strings.ToLower(strings.TrimPrefix(v.Name, "STAT_")))
		}
	}
	return names, nil
}

// readStats adds the CPUs' counts up. Counters that an older version's map lacks are left out.
func readStats(m *ebpf.Map, names []string) (map[string]uint64, error) {
	counters := make(map[string]uint64, len(names))
	for i, name := range names {
		if uint32(i) >= m.MaxEntries() {
			break
		}
		var perCPU []uint64
		if err := m.Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("read counter %s: %w", name, err)
		}
		for _, n := range perCPU {
			counters[name] += n
		}
	}
	return counters, nil
}
