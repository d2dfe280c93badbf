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

// What the bytes of an entry of reply_filter are (bpf/maps.h). The low half of an entry has them all.
const (
	replyUnused = iota
	replyUsed
	replySuspect
)

const (
	everyHook      = 0xf
	flowHooksShift = 8 // where FLOW_AT begins in a flow's flags; four bits further up are those of its other entry
)

// swapReplies turns the bytes of an entry that are old into new, for a set of hooks: bit n for byte n. The data
// path stores bytes beside it at any time.
func swapReplies(entry *uint64, hooks uint32, old, new uint64) (swapped bool) {
	for {
		was := atomic.LoadUint64(entry)
		is := was
		for hook := range 4 {
			if shift := 8 * hook; hooks>>hook&1 != 0 && was>>shift&0xff == old {
				is = is&^(0xff<<shift) | new<<shift
			}
		}
		if is == was || atomic.CompareAndSwapUint64(entry, was, is) {
			return is != was
		}
	}
}

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
		if swapReplies(&replies[i], everyHook, replyUsed, replySuspect) {
			suspects++
		}
	}

	var candidates []Tuple
	oldest := Monotonic() - uint64(collectAge)
	err = f.Walk(func(key Tuple, flow *Flow) {
		if flow.Flags&FlowEstablished != 0 && int64(flow.LastSeen-oldest) < 0 {
			candidates = append(candidates, key)
		}
		frontend, backend, hooks := key.Dst, flow.Dst, flow.Flags>>(flowHooksShift+4)
		if flow.Flags&FlowReply != 0 {
			frontend, backend, hooks = flow.Src, key.Src, flow.Flags>>flowHooksShift
		}
		delete(unwanted, frontend.hash(addressFilterBits))
		if flow.Flags&FlowRemote == 0 {
			swapReplies(&replies[backend.hash(replyFilterBits)], hooks&everyHook, replySuspect, replyUsed)
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
			swapReplies(&replies[i], everyHook, replySuspect, replyUnused)
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
