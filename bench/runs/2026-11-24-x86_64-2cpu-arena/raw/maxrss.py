import resource,subprocess,sys
for who in ("shared","own")*2 if False else ("shared","own","own","shared"):
    with open(f"{sys.argv[1]}/{who}-{'1' if who not in globals().get('seen',()) else '2'}.json","w") as f:
        seen=globals().setdefault('seen',[]); seen.append(who)
        before=resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        p=subprocess.Popen([f"target/release/segments-{who}","20","densenet121","inception_v3","resnet50"],stdout=f)
        _,status,usage=__import__('os').wait4(p.pid,0)
        print(who,"status",status,"most memory, MiB",usage.ru_maxrss//1024,flush=True)
