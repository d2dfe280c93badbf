package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Flows is the packet path's connection state. Safe for concurrent use, but for Collect.
type Flows struct {
	maps    map[string]*ebpf.Map
	collect *ebpf.Program // nil when only looking
	filter  *addressFilter
	reply   []byte // the reply filter's memory, mapped at the first Collect
}

func (f *Flows) close() error {
	if f.reply == nil {
		return nil
	}
	return unix.Munmap(f.reply)
}

// Walk calls visit for both entries of each flow; those without FlowEstablished are embryonic.
func (f *Flows) Walk(visit func(Tuple, *Flow)) error {
	// In the order in which entries move, so that none is missed on its way.
	if err := walk(f.maps["embryos"], visit); err != nil {
		return err
	}
	return walk(f.maps["flows"], visit)
}

// Filter values of bpf/maps.h, reply_filter.
const (
	replyUnused = iota
	replyUsed
	replySuspect
)

// Keys that one run of the collect program takes, and what precedes them (bpf/collect.h).
const (
	collectKeys   = 64
	collectHeader = 16
	// collectAge is the shortest timeout: younger entries are no candidates.
	collectAge = 10 * time.Second
)

// Collect removes the flows that have been silent for too long, and closes the filters for addresses that
// no flow and no frontend has any more. It returns how many flows it removed.
func (f *Flows) Collect() (int, error) {
	replies, err := f.replyFilter()
	if err != nil {
		return 0, err
	}
	unwanted := f.filter.unwanted()
	suspects := 0
	for i := range replies {
		if atomic.CompareAndSwapUint64(&replies[i], replyUsed, replySuspect) {
			suspects++
		}
	}

	var candidates []Tuple
	oldest := Monotonic() - uint64(collectAge)
	err = f.Walk(func(key Tuple, flow *Flow) {
		if flow.Flags&FlowEstablished != 0 && int64(flow.LastSeen-oldest) < 0 {
			candidates = append(candidates, key)
		}
		frontend, backend := key.Dst, flow.Dst
		if flow.Flags&FlowReply != 0 {
			frontend, backend = flow.Src, key.Src
		}
		delete(unwanted, frontend.hash(addressFilterBits))
		if flow.Flags&FlowRemote == 0 {
			atomic.CompareAndSwapUint64(&replies[backend.hash(replyFilterBits)], replySuspect, replyUsed)
		}
	})
	if err != nil {
		return 0, err
	}
	if len(unwanted) > 0 {
		// A restarted agent has not asked for its addresses yet.
		err = walk(f.maps["frontends"], func(key FrontendKey, _ *Frontend) { delete(unwanted, key.Addr.hash(addressFilterBits)) })
		if err != nil {
			return 0, err
		}
	}
	f.filter.clear(unwanted)
	if suspects > 0 {
		for i := range replies {
			// If the data path has meanwhile begun a flow there, it has written replyUsed.
			atomic.CompareAndSwapUint64(&replies[i], replySuspect, replyUnused)
		}
	}
	return f.collectKeys(candidates)
}

func (f *Flows) collectKeys(candidates []Tuple) (collected int, err error) {
	var packet bytes.Buffer
	for len(candidates) > 0 {
		n := min(len(candidates), collectKeys)
		packet.Reset()
		packet.Write(make([]byte, collectHeader))
		if err := binary.Write(&packet, binary.NativeEndian, candidates[:n]); err != nil {
			return collected, err
		}
		removed, err := f.collect.Run(&ebpf.RunOptions{Data: packet.Bytes()})
		if err != nil {
			return collected, fmt.Errorf("run collect program: %w", err)
		}
		collected += int(removed)
		candidates = candidates[n:]
	}
	return collected, nil
}

func (f *Flows) replyFilter() ([]uint64, error) {
	if f.collect == nil {
		return nil, errors.New("collect flows: opened for looking only")
	}
	if f.reply == nil {
		mem, err := mapMemory[uint64]("reply_filter", f.maps["reply_filter"])
		if err != nil {
			return nil, err
		}
		f.reply = mem
	}
	return unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(f.reply))), len(f.reply)/8), nil
}

// Monotonic is the clock of the programs' time stamps.
func Monotonic() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return uint64(ts.Nano())
}
