package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/svcproxy/svcproxy/pkg/bpf"
)

// flowLine is one flow, both directions together.
type flowLine struct {
	Service  string         `json:"service"`
	Protocol string         `json:"protocol"`
	Client   netip.AddrPort `json:"client"`
	Frontend netip.AddrPort `json:"frontend"`
	Source   netip.AddrPort `json:"source"` // that the backend sees
	Backend  netip.AddrPort `json:"backend"`
	State    string         `json:"state"` // embryonic, established, closing
	Remote   bool           `json:"remote"`
	Idle     float64        `json:"idleSeconds"`
	Packets  uint64         `json:"packets"` // from the client
	Bytes    uint64         `json:"bytes"`
	Replies  uint64         `json:"replyPackets"`
	Answered uint64         `json:"replyBytes"`
}

func newFlowsCommand() *cobra.Command {
	var l look
	cmd := &cobra.Command{
		Use:   "flows",
		Short: "Connections that packets are translated for at the node's links; read from the kernel",
		Long: `Lists the flows of the packet path: connections from outside to NodePorts, load balancer and external
IPs. Connections of this node's own processes and pods are translated once, at their socket, and have no
flow. An embryonic flow is one whose client has not yet answered the backend's answer.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			view, err := l.open()
			if err != nil {
				return err
			}
			defer view.Close()
			lines, err := readFlows(view)
			if err != nil {
				return err
			}
			t := &table{columns: []column{{"SERVICE", false}, {"PROTO", false}, {"CLIENT", false}, {"FRONTEND", false}, {"BACKEND", false},
				{"STATE", false}, {"IDLE", false}, {"SOURCE SEEN", true}, {"PACKETS", true}, {"BYTES", true}, {"REPLIES", true}, {"REPLY BYTES", true}}}
			for _, f := range lines {
				t.add(f.Service, f.Protocol, f.Client.String(), f.Frontend.String(), f.Backend.String(), f.State,
					(time.Duration(f.Idle) * time.Second).String(), f.Source.String(),
					fmt.Sprint(f.Packets), fmt.Sprint(f.Bytes), fmt.Sprint(f.Replies), fmt.Sprint(f.Answered))
			}
			return l.print(cmd.OutOrStdout(), lines, t)
		},
	}
	l.addFlags(cmd)
	return cmd
}

// readFlows joins both entries of each flow.
func readFlows(view *bpf.View) ([]flowLine, error) {
	services, err := view.Services()
	if err != nil {
		return nil, err
	}
	now := bpf.Monotonic()
	stubs, records := map[bpf.Tuple]bpf.Flow{}, map[bpf.Tuple]bpf.Flow{}
	if err := view.Walk(func(key bpf.Tuple, f *bpf.Flow) {
		if f.Flags&bpf.FlowReply == 0 {
			stubs[key] = *f
		} else {
			records[bpf.NewTuple(f.Destination(), f.Source(), key.Protocol)] = *f
		}
	}); err != nil {
		return nil, err
	}
	lines := []flowLine{}
	for key, stub := range stubs {
		record := records[key]
		flags := stub.Flags | record.Flags
		state := "embryonic"
		switch {
		case flags&(bpf.FlowRst|bpf.FlowFinClient|bpf.FlowFinBackend) != 0:
			state = "closing"
		case flags&bpf.FlowEstablished != 0:
			state = "established"
		}
		name := fmt.Sprintf("#%d", stub.Service)
		if s, ok := services[stub.Service]; ok {
			name = s.String()
		}
		idle := max(0, time.Duration(now-max(stub.LastSeen, record.LastSeen)))
		lines = append(lines, flowLine{
			Service: name, Protocol: bpf.ProtocolName(key.Protocol), Client: key.Source(), Frontend: key.Destination(),
			Source: stub.Source(), Backend: stub.Destination(), State: state, Remote: stub.Flags&bpf.FlowRemote != 0,
			Idle: idle.Seconds(), Packets: stub.Packets, Bytes: stub.Bytes, Replies: record.Packets, Answered: record.Bytes,
		})
	}
	slices.SortFunc(lines, func(a, b flowLine) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), a.Client.Compare(b.Client), a.Frontend.Compare(b.Frontend))
	})
	return lines, nil
}
