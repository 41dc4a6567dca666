// A DNS server for the pods: names under cluster.local come from the Services and EndpointSlices of the API server, by
// the rules of Kubernetes' own DNS specification (A records). Any other name does
// not exist: nothing leaves the machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/net/dns/dnsmessage"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/clientcmd"
)

const zone = ".svc.cluster.local."

// ttl is short: a test changes a Service and reads its name right after.
const ttl = 2

type world struct {
	services corelisters.ServiceLister
	slices   discoverylisters.EndpointSliceLister
}

func newDNSCommand() *cobra.Command {
	var kubeconfig, address string
	cmd := &cobra.Command{
		Use:          "dns",
		Short:        "Answers the pods' questions about cluster.local",
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return serveDNS(ctx, kubeconfig, address)
		},
	}
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the API server")
	cmd.Flags().StringVar(&address, "listen", "", "address and port to answer at, over UDP and TCP")
	return cmd
}

func serveDNS(ctx context.Context, kubeconfig, address string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 10*time.Minute)
	w := &world{
		services: factory.Core().V1().Services().Lister(),
		slices:   factory.Discovery().V1().EndpointSlices().Lister(),
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())

	packets, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	streams, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	go func() {
		<-ctx.Done()
		packets.Close()
		streams.Close()
	}()
	go func() {
		for {
			conn, err := streams.Accept()
			if err != nil {
				return
			}
			go w.serveStream(conn)
		}
	}()
	fmt.Println("answering at", address)
	buffer := make([]byte, 4096)
	for {
		n, from, err := packets.ReadFrom(buffer)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			continue
		}
		if reply := w.reply(buffer[:n]); reply != nil {
			packets.WriteTo(reply, from)
		}
	}
}

// serveStream answers one TCP connection: each message has its length before it (RFC 1035, 4.2.2).
func (w *world) serveStream(conn net.Conn) {
	defer conn.Close()
	for {
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		message := make([]byte, int(size[0])<<8|int(size[1]))
		if _, err := io.ReadFull(conn, message); err != nil {
			return
		}
		reply := w.reply(message)
		if reply == nil {
			return
		}
		conn.Write(append([]byte{byte(len(reply) >> 8), byte(len(reply))}, reply...))
	}
}

// reply builds the answer to one message, nil where it is not a question at all.
func (w *world) reply(message []byte) []byte {
	var parser dnsmessage.Parser
	header, err := parser.Start(message)
	if err != nil || header.Response {
		return nil
	}
	question, err := parser.Question()
	if err != nil {
		return nil
	}
	name := strings.ToLower(question.Name.String())
	addresses, known := w.lookup(name)
	out := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: header.ID, Response: true, Authoritative: true,
			RecursionDesired: header.RecursionDesired, RecursionAvailable: true,
		},
		Questions: []dnsmessage.Question{question},
	}
	if !known {
		out.Header.RCode = dnsmessage.RCodeNameError
	} else if question.Type == dnsmessage.TypeA || question.Type == dnsmessage.TypeALL {
		for _, address := range addresses {
			out.Answers = append(out.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: question.Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: ttl},
				Body:   &dnsmessage.AResource{A: address.As4()},
			})
		}
	}
	packed, err := out.Pack()
	if err != nil {
		return nil
	}
	return packed
}

// lookup gives the addresses of a name; known is false where the name does not exist.
func (w *world) lookup(name string) (addresses []netip.Addr, known bool) {
	prefix, ok := strings.CutSuffix(name, zone)
	if !ok {
		return nil, false
	}
	parts := strings.Split(prefix, ".")
	host := ""
	if len(parts) == 3 {
		host, parts = parts[0], parts[1:]
	}
	if len(parts) != 2 {
		return nil, false
	}
	service, err := w.services.Services(parts[1]).Get(parts[0])
	if err != nil {
		return nil, false
	}
	if service.Spec.ClusterIP != core.ClusterIPNone && host == "" {
		if address, err := netip.ParseAddr(service.Spec.ClusterIP); err == nil {
			addresses = append(addresses, address)
		}
		return addresses, true
	}
	slices, err := w.slices.EndpointSlices(parts[1]).List(labels.SelectorFromSet(labels.Set{discovery.LabelServiceName: parts[0]}))
	if err != nil {
		return nil, false
	}
	for _, slice := range slices {
		for _, endpoint := range slice.Endpoints {
			ready := endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready || service.Spec.PublishNotReadyAddresses
			if !ready || len(endpoint.Addresses) == 0 {
				continue
			}
			if host != "" && (endpoint.Hostname == nil || *endpoint.Hostname != host) {
				continue
			}
			if address, err := netip.ParseAddr(endpoint.Addresses[0]); err == nil && address.Is4() {
				addresses = append(addresses, address)
			}
		}
	}
	return addresses, host == "" || len(addresses) > 0
}
