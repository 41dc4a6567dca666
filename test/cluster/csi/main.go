// Command csi gives a test cluster the volumes of the Linode Kubernetes Engine: the CSI driver linodebs.csi.linode.com
// (identity, controller and node service on one socket), its registration with the kubelet, and an external provisioner.
// Attacher and resizer are Kubernetes' own sidecars, built from this module too.
//
// It does what Linode's driver 1.1 does (https://github.com/linode/linode-blockstorage-csi-driver) through the same API
// calls; only a volume's device is not hot-plugged, but is a sparse file in the folder of the API's stand-in.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const driverName = "linodebs.csi.linode.com"

func main() {
	var (
		kubeconfig = flag.String("kubeconfig", "", "`file` that leads to the cluster, with the rights of a cluster-admin")
		kubelet    = flag.String("kubelet-dir", "/var/lib/kubelet", "the kubelet's root `folder`; the sockets go below it")
		url        = flag.String("linode-url", "", "base `URL` of the Linode API, without /v4")
		tokenFile  = flag.String("linode-token-file", "", "`file` with the API token")
		volumes    = flag.String("volumes-dir", "", "`folder` in which the API's stand-in keeps the volumes")
		linodeID   = flag.Int("linode-id", 0, "`id` that this node has as a Linode")
		region     = flag.String("region", "", "the node's `region`")
	)
	flag.Parse()
	for name, value := range map[string]string{"kubeconfig": *kubeconfig, "linode-url": *url, "linode-token-file": *tokenFile, "volumes-dir": *volumes, "region": *region} {
		if value == "" {
			log.Fatalf("-%s is missing", name)
		}
	}
	if *linodeID <= 0 {
		log.Fatal("-linode-id must be a number above 0")
	}
	token, err := os.ReadFile(*tokenFile)
	if err != nil {
		log.Fatal(err)
	}
	api := &linode{url: *url, token: strings.TrimSpace(string(token))}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	control := &controller{api: api, region: *region}
	socket := filepath.Join(*kubelet, "plugins", driverName, "csi.sock")
	driver := grpc.NewServer(grpc.UnaryInterceptor(logged))
	csi.RegisterIdentityServer(driver, &identity{})
	csi.RegisterControllerServer(driver, control)
	csi.RegisterNodeServer(driver, &node{api: api, volumes: *volumes, linodeID: *linodeID, region: *region})
	serve(ctx, driver, socket)

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		log.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		log.Fatal(err)
	}
	go newProvisioner(client, control, *region).run(ctx)

	// Last: the kubelet calls the driver as soon as it knows it.
	registrar := grpc.NewServer()
	registration.RegisterRegistrationServer(registrar, &registrant{endpoint: socket, stop: stop})
	serve(ctx, registrar, filepath.Join(*kubelet, "plugins_registry", driverName+"-reg.sock"))
	<-ctx.Done()
}

func serve(ctx context.Context, server *grpc.Server, socket string) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o750); err != nil {
		log.Fatal(err)
	}
	// Left by a process that was killed; nobody can listen on it again.
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		if err := server.Serve(listener); err != nil {
			log.Fatal(err)
		}
	}()
	context.AfterFunc(ctx, server.Stop)
}

// logged writes one line for each call that changes something or fails; the kubelet asks for capabilities and
// statistics all the time.
func logged(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	answer, err := handle(ctx, req)
	method := info.FullMethod[strings.LastIndex(info.FullMethod, "/")+1:]
	volume := ""
	if named, ok := req.(interface{ GetVolumeId() string }); ok {
		volume = named.GetVolumeId()
	}
	switch {
	case err != nil:
		log.Printf("%s %s: %v", method, volume, err)
	case volume != "" && method != "NodeGetVolumeStats":
		log.Printf("%s %s: done", method, volume)
	}
	return answer, err
}
