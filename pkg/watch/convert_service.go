package watch

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

const (
	labelProxyName = "service.kubernetes.io/service-proxy-name"
	// annotationBalancing on a Service chooses its endpoints.Balancing.
	annotationBalancing = "svcproxy.io/load-balancing"

	// What the API server puts in, and admits, as the timeout of a session affinity.
	defaultAffinitySeconds = 10800
	maxAffinitySeconds     = 86400

	maxPort        = 65535
	maxLabelLength = 63 // of a Service's name, its namespace and its ports' names
)

// convertService returns what the model needs of svc, nil if svc is not ours to serve or
// if nothing usable is left of it, and what had to be left out.
func convertService(svc *corev1.Service) (*endpoints.Service, []error) {
	name := endpoints.ObjectName{Namespace: svc.Namespace, Name: svc.Name}
	found := findings{key: key{kindService, name}}
	spec := &svc.Spec
	if _, foreign := svc.Labels[labelProxyName]; foreign ||
		spec.Type == corev1.ServiceTypeExternalName || spec.ClusterIP == corev1.ClusterIPNone {
		return nil, nil
	}
	if spec.ClusterIP == "" { // only without an API server: that one allocates one
		found.add("spec.clusterIP is not set")
		return nil, found.errs
	}
	if !usableName(svc.Name) || !usableName(svc.Namespace) {
		found.add("metadata: %q is not a name", name)
		return nil, found.errs
	}

	s := &endpoints.Service{
		Name:          name,
		Created:       svc.CreationTimestamp.UTC(),
		Ports:         servicePorts(spec.Ports, &found),
		ClusterIPs:    clusterIPs(spec, &found),
		ExternalIPs:   externalIPs(spec.ExternalIPs, &found),
		InternalLocal: spec.InternalTrafficPolicy != nil && *spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
		ExternalLocal: externallyAccessible(spec) && spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
		Affinity:      affinity(spec, &found),
		Balancing:     balancing(svc.Annotations, &found),
	}
	s.LoadBalancerIPs = loadBalancerIPs(svc.Status.LoadBalancer.Ingress, &found)
	s.SourceRanges, s.LoadBalancerIPs = sourceRanges(spec.LoadBalancerSourceRanges, s.LoadBalancerIPs, &found)
	s.HealthCheckNodePort = healthCheckNodePort(spec, s.ExternalLocal, &found)
	if len(s.Ports) == 0 {
		found.add("spec.ports: none is usable")
		return nil, found.errs
	}
	if len(s.ClusterIPs) == 0 {
		found.add("spec.clusterIPs: none is usable")
		return nil, found.errs
	}
	return s, found.errs
}

// usableName reports whether name can stand in dumps and in the kernel's tables. It is not the API
// server's validation, which changes.
func usableName(name string) bool {
	return name != "" && len(name) <= maxLabelLength && usableRunes(name)
}

func usableRunes(name string) bool {
	return !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '/' || r == ':' || r >= 0x7f })
}

// externallyAccessible is about the type only.
func externallyAccessible(spec *corev1.ServiceSpec) bool {
	return spec.Type == corev1.ServiceTypeLoadBalancer || spec.Type == corev1.ServiceTypeNodePort ||
		len(spec.ExternalIPs) > 0
}

// clusterIPs returns at most one address a family.
func clusterIPs(spec *corev1.ServiceSpec, found *findings) []netip.Addr {
	texts := spec.ClusterIPs
	if len(texts) == 0 { // objects from before dual stack
		texts = []string{spec.ClusterIP}
	}
	var addrs []netip.Addr
	for i, text := range texts {
		addr, err := parseAddr(text)
		if err != nil {
			found.add("spec.clusterIPs[%d]: %w", i, err)
			continue
		}
		if err := checkFrontend(addr); err != nil {
			found.add("spec.clusterIPs[%d]: %v %w", i, addr, err)
			continue
		}
		if addr.IsLoopback() {
			found.add("spec.clusterIPs[%d]: %v is a loopback address", i, addr)
			continue
		}
		if len(spec.IPFamilies) > 0 && (i >= len(spec.IPFamilies) || spec.IPFamilies[i] != familyOf(addr)) {
			found.add("spec.clusterIPs[%d]: %v does not match spec.ipFamilies %v", i, addr, spec.IPFamilies)
			continue
		}
		if slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Is4() == addr.Is4() }) {
			found.add("spec.clusterIPs[%d]: %v is a second %v address", i, addr, familyOf(addr))
			continue
		}
		addrs = append(addrs, addr)
	}
	return addrs
}

func familyOf(addr netip.Addr) corev1.IPFamily {
	if addr.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

func externalIPs(texts []string, found *findings) []netip.Addr {
	var addrs []netip.Addr
	for i, text := range texts {
		addr, err := parseAddr(text)
		if err != nil {
			found.add("spec.externalIPs[%d]: %w", i, err)
		} else if err := checkHost(addr); err != nil {
			found.add("spec.externalIPs[%d]: %v %w", i, addr, err)
		} else if !slices.Contains(addrs, addr) {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// loadBalancerIPs returns the addresses to be programmed, whatever the Service's type.
func loadBalancerIPs(ingress []corev1.LoadBalancerIngress, found *findings) []netip.Addr {
	var addrs []netip.Addr
	for i, ing := range ingress {
		if ing.IP == "" || ing.IPMode != nil && *ing.IPMode != corev1.LoadBalancerIPModeVIP {
			continue
		}
		addr, err := parseAddr(ing.IP)
		if err != nil {
			found.add("status.loadBalancer.ingress[%d].ip: %w", i, err)
		} else if err := checkFrontend(addr); err != nil {
			found.add("status.loadBalancer.ingress[%d].ip: %v %w", i, addr, err)
		} else if !slices.Contains(addrs, addr) {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// sourceRanges returns the clients that the load balancer addresses vips admit, and those of
// vips that may be served. A family without a range admits everybody; so that a mistake does not open
// a Service to the world, a family whose ranges may have been among the unreadable loses its addresses.
func sourceRanges(texts []string, vips []netip.Addr, found *findings) ([]netip.Prefix, []netip.Addr) {
	var ranges []netip.Prefix
	bad := false
	for i, text := range texts {
		p, err := parsePrefix(strings.TrimSpace(text))
		if err != nil {
			found.add("spec.loadBalancerSourceRanges[%d]: %w", i, err)
			bad = true
			continue
		}
		ranges = append(ranges, p)
	}
	if !bad {
		return ranges, vips
	}
	var served []netip.Addr
	for _, vip := range vips {
		if slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Addr().Is4() == vip.Is4() }) {
			served = append(served, vip)
		} else {
			found.add("status.loadBalancer.ingress: %v is not served: no usable spec.loadBalancerSourceRanges for it", vip)
		}
	}
	return ranges, served
}

func affinity(spec *corev1.ServiceSpec, found *findings) time.Duration {
	if spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		if spec.SessionAffinity != corev1.ServiceAffinityNone && spec.SessionAffinity != "" {
			found.add("spec.sessionAffinity: %q is not None or ClientIP", spec.SessionAffinity)
		}
		return 0
	}
	seconds := int32(defaultAffinitySeconds)
	if c := spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		if t := *c.ClientIP.TimeoutSeconds; t < 1 || t > maxAffinitySeconds {
			found.add("spec.sessionAffinityConfig.clientIP.timeoutSeconds: %d is not 1 to %d", t, maxAffinitySeconds)
		} else {
			seconds = t
		}
	}
	return time.Duration(seconds) * time.Second
}

// balancing is what the Service's own annotation says.
func balancing(annotations map[string]string, found *findings) endpoints.Balancing {
	text, ok := annotations[annotationBalancing]
	if !ok {
		return endpoints.Default
	}
	b, err := endpoints.ParseBalancing(text)
	if err != nil {
		found.add("metadata.annotations[%s]: %w", annotationBalancing, err)
	}
	return b
}

// healthCheckNodePort is.
func healthCheckNodePort(spec *corev1.ServiceSpec, external bool, found *findings) uint16 {
	if spec.Type != corev1.ServiceTypeLoadBalancer || !external {
		return 0
	}
	port := spec.HealthCheckNodePort
	if port < 1 || port > maxPort {
		found.add("spec.healthCheckNodePort: %d is not 1 to %d", port, maxPort)
		return 0
	}
	return uint16(port)
}
