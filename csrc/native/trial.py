import sys, marshal, glob, time, os, collections
import native, _native
def collect(name):
    import importlib
    before=set(sys.modules)
    return None
def pycs(root):
    out=[]
    for d,_,fs in os.walk(root):
        if d.endswith('__pycache__'):
            tag=sys.implementation.cache_tag
            for f in fs:
                if f.endswith(f'.{tag}.pyc'):
                    out.append(os.path.join(d,f))
    return sorted(out)
import sysconfig
roots=sys.argv[1:]
data=[]
for r in roots:
    for p in pycs(r):
        b=open(p,'rb').read()
        data.append(b[16:])
t=time.perf_counter(); table,streams=native.encode(data); t1=time.perf_counter()
print(len(data),'modules encode',t1-t,'bytes',sum(map(len,data)), len(table)+sum(len(s) for s in streams if isinstance(s,bytes)), len(table))
_native.open(table)
c=collections.Counter(native.verify(streams,data)); print(c, 'verify',time.perf_counter()-t1)
